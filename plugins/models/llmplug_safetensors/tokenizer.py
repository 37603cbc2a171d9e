"""What a tokenizer is made of: tokenizer.json and the files around it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from llmplug import CheckpointError, TokenizerFiles
from llmplug_safetensors.json_files import read_object, read_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
_NAMED_TOKENS = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """Read the tokenizer of a model folder.

    Raises:
        CheckpointError: there is no tokenizer.json, or a file is damaged.
    """
    path = folder / TOKENIZER_FILE
    text = read_text(path)
    if text is None:
        raise CheckpointError(
            f"{folder}: {TOKENIZER_FILE} is missing; make one from the other tokenizer files, "
            "with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    config = read_object(folder / CONFIG_FILE) or {}
    special = {**(read_object(folder / SPECIAL_FILE) or {}), **config}
    bos, eos = _token_text(special, "bos_token"), _token_text(special, "eos_token")
    named = {name: _token_text(special, name) for name in _NAMED_TOKENS}
    named |= _extra_tokens(special)
    template, templates = _read_templates(folder, config)
    texts = [bos, eos, *named.values()]
    add_bos = config.get("add_bos_token")
    return TokenizerFiles(
        json=_complete(path, text, config, {text for text in texts if text is not None}),
        bos_token=bos,
        eos_token=eos,
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        chat_template=template,
        named_templates=templates,
        special_tokens={name: text for name, text in named.items() if text is not None},
    )


def _token_text(fields: dict[str, Any], name: str) -> str | None:
    """Read a token that is written as a string, or as an object with its content."""
    value = fields.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{CONFIG_FILE}: {name} is {value!r}, which is no token")
    return value


def _extra_tokens(fields: dict[str, Any]) -> dict[str, str | None]:
    extra = fields.get("extra_special_tokens")
    return {name: _token_text(extra, name) for name in extra} if isinstance(extra, dict) else {}


def _read_templates(folder: Path, config: dict[str, Any]) -> tuple[str | None, dict[str, str]]:
    """Read the default template and the named ones; files win over tokenizer_config.json."""
    given = config.get("chat_template")
    templates: dict[str, str] = {}
    if isinstance(given, str):
        templates["default"] = given
    elif isinstance(given, list):
        try:
            templates = {str(entry["name"]): str(entry["template"]) for entry in given}
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"{folder / CONFIG_FILE}: chat_template is damaged") from error
    elif given is not None:
        raise CheckpointError(f"{folder / CONFIG_FILE}: chat_template is neither text nor a list")
    for file in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja")):
        templates[file.stem] = read_text(file) or ""
    default = read_text(folder / TEMPLATE_FILE)
    if default is not None:
        templates["default"] = default
    return templates.pop("default", None), templates


def _complete(path: Path, text: str, config: dict[str, Any], special: set[str]) -> str:
    """Add the tokens to tokenizer.json that only the files around it know as added tokens.

    Old checkpoints list some only there. Without them a text that spells one would be split.
    """
    entries = _listed_tokens(config)
    try:
        description = json.loads(text)
        known = {entry["content"] for entry in description["added_tokens"]}
        vocab = description["model"]["vocab"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged tokenizer: {error!r}") from error
    ids = vocab if isinstance(vocab, dict) else {entry[0]: i for i, entry in enumerate(vocab)}
    entries += [_entry(ids[token], token) for token in sorted(special) if token in ids]
    lacking: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry["content"] not in known:
            lacking.setdefault(entry["content"], entry)
    if not lacking:
        return text
    added = [*description["added_tokens"], *lacking.values()]
    description["added_tokens"] = sorted(added, key=lambda entry: entry["id"])
    text = json.dumps(description, ensure_ascii=False)
    _refuse_other_ids(path, text, lacking.values())
    return text


def _listed_tokens(config: dict[str, Any]) -> list[dict[str, Any]]:
    listed = config.get("added_tokens_decoder")
    if not isinstance(listed, dict):
        return []
    entries = []
    for id_, token in listed.items():
        if not str(id_).isdecimal() or not isinstance(token, dict):
            raise CheckpointError(f"{CONFIG_FILE}: added_tokens_decoder is damaged at {id_!r}")
        content = _token_text({"token": token}, "token")
        if content is not None:
            entries.append({**_entry(int(id_), content), **token})
    return [{key: value for key, value in e.items() if not key.startswith("__")} for e in entries]


def _entry(id_: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": content, **flags, "special": True}


def _refuse_other_ids(path: Path, text: str, added: Iterable[dict[str, Any]]) -> None:
    """Refuse tokens that the library would give another id: it numbers new ones in order."""
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:
        raise CheckpointError(f"{path}: damaged tokenizer: {error}") from error
    for entry in added:
        actual = tokenizer.token_to_id(entry["content"])
        if actual != entry["id"]:
            raise CheckpointError(
                f"{path}: added token {entry['content']!r} has the id {entry['id']} in "
                f"{CONFIG_FILE}, but {actual} is the next free one"
            )
