"""Which token ids end an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llmplug.errors import CheckpointError

if TYPE_CHECKING:
    from llmplug.chat.tokenizer import Tokenizer


def stop_token_ids(
    tokenizer: Tokenizer,
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any] | None,
    template_stops: Iterable[str] = (),
) -> frozenset[int]:
    """Join all that say where an answer ends.

    Checkpoints often name only one of several: the end of a document in `config.json`, the end of
    a turn nowhere but in the chat template.

    Args:
        tokenizer: its `eos_token_id` counts.
        config: `eos_token_id`, a number or a list, as in config.json; counts where
            `generation_config` says nothing.
        generation_config: the same field of generation_config.json.
        template_stops: texts of tokens that end a turn under the chat template.
    Raises:
        CheckpointError: an id is no number, or a stop of the template is not in the vocabulary.
    """
    declared = (generation_config or {}).get("eos_token_id")
    if declared is None:
        declared = config.get("eos_token_id")
    ids = set(_listed(declared))
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    for text in template_stops:
        token_id = tokenizer.id_of(text)
        if token_id is None:
            raise CheckpointError(
                f"the chat template ends an answer with {text!r}, "
                "which is not in the model's vocabulary"
            )
        ids.add(token_id)
    return frozenset(ids)


def _listed(declared: object) -> list[int]:
    if declared is None:
        return []
    listed = declared if isinstance(declared, list) else [declared]
    ids = [id_ for id_ in listed if isinstance(id_, int) and not isinstance(id_, bool)]
    if len(ids) < len(listed):
        raise CheckpointError(f"eos_token_id must be a token id or a list of them: {declared}")
    return ids
