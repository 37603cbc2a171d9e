"""Which chat template a model gets, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmplug.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from llmplug.specs import ChatTemplateSpec, TokenizerFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTemplate:
    """A chat template and its origin, in words for the report."""

    source: str
    origin: str
    stop_tokens: tuple[str, ...] = ()


def find_template(
    files: TokenizerFiles,
    vocabulary: frozenset[str],
    specs: Sequence[ChatTemplateSpec],
    requested: str | None = None,
) -> FoundTemplate | None:
    """Choose the chat template: the requested one, the checkpoint's, or one that fits.

    Args:
        files: of the checkpoint.
        vocabulary: token texts.
        specs: templates that plugins offer.
        requested: name of a spec, name of a template in the checkpoint, or path of a .jinja file.
    Returns:
        None if nothing was requested and nothing fits: the model is not made for chat.
    Raises:
        ConfigError: the requested template does not exist.
        CheckpointError: several offered templates fit a checkpoint without one of its own.
    """
    if requested is not None:
        return _find_requested(files, specs, requested)
    if files.chat_template is not None:
        return FoundTemplate(source=files.chat_template, origin="the checkpoint")
    if "default" in files.named_templates:
        return FoundTemplate(
            source=files.named_templates["default"], origin="the checkpoint, template `default`"
        )
    fitting = [spec for spec in specs if spec.fits(vocabulary)]
    if len(fitting) > 1:
        names = ", ".join(sorted(spec.name for spec in fitting))
        raise CheckpointError(
            f"the checkpoint has no chat template and several fit: {names}; "
            "name one with `chat_template:` in the config"
        )
    return _from_spec(fitting[0], "fits the vocabulary") if fitting else None


def _find_requested(
    files: TokenizerFiles, specs: Sequence[ChatTemplateSpec], requested: str
) -> FoundTemplate:
    for spec in specs:
        if spec.name == requested:
            return _from_spec(spec, "named in the config")
    if requested in files.named_templates:
        return FoundTemplate(
            source=files.named_templates[requested],
            origin=f"the checkpoint, template `{requested}`, named in the config",
        )
    path = Path(requested).expanduser()
    if path.suffix in {".jinja", ".jinja2", ".j2"}:
        try:
            return FoundTemplate(source=path.read_text("utf-8"), origin=f"the file {path}")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"chat_template: {path} cannot be read: {error}") from error
    known = sorted({spec.name for spec in specs} | set(files.named_templates))
    raise ConfigError(
        f"chat_template: there is no template {requested!r}; "
        f"known are {', '.join(known) or 'none'}, or write the path of a .jinja file"
    )


def _from_spec(spec: ChatTemplateSpec, reason: str) -> FoundTemplate:
    return FoundTemplate(
        source=spec.source,
        origin=f"the plugin template `{spec.name}`, {reason}",
        stop_tokens=spec.stop_tokens,
    )
