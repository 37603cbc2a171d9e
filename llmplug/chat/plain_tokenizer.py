"""A twin of a tokenizer in which control tokens go by secret names.

What users write must never become a control token, whatever it spells. Leaving the added tokens
out is not enough: their texts often stand in the model's vocabulary too, where a whole-word
lookup (BPE with `ignore_merges`, WordLevel), a chain of merges or the best path (Unigram) finds
them. So the twin renames each control token, in the vocabulary and in the list of added tokens,
to a random text that only this process knows: no input can spell it, ids stay as they are, and
whoever does know the name (the chat renderer) can still place the token exactly where it belongs
and encode the whole text in one go, with the library's own rules for the pieces between.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
import tokenizers

# Noncharacters: valid in UTF-8, meant for internal use, never assigned.
_LETTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
_SECRET_LENGTH = 26  # 5 bits a letter: 130 bits


def make_plain_tokenizer(
    description: Mapping[str, Any], control: Mapping[int, tokenizers.AddedToken]
) -> tuple[tokenizers.Tokenizer, dict[int, str]]:
    """Build the twin.

    Args:
        description: the parsed JSON of the tokenizer.
        control: added tokens to hide, by id.
    Returns:
        The twin, and the name of each control token by its id.
    """
    names = _draw_names(sorted(control))
    kept = [token for token in description["added_tokens"] if token["id"] not in control]
    texts = {token["id"]: token["content"] for token in kept} | names
    hidden = {token.content: names[id_] for id_, token in control.items()}
    twin = tokenizers.Tokenizer.from_buffer(
        msgspec.json.encode(
            {
                **description,
                "model": _rename(description["model"], hidden, texts),
                "added_tokens": kept,
                "post_processor": None,
                "truncation": None,
                "padding": None,
            }
        )
    )
    twin.add_tokens([_alias(control[id_], name, twin) for id_, name in names.items()])
    return twin, names


def _draw_names(ids: list[int]) -> dict[int, str]:
    """One name per id, all of one length, so that none is the start of another."""
    secret = "".join(secrets.choice(_LETTERS) for _ in range(_SECRET_LENGTH))
    return {
        id_: secret + "".join(_LETTERS[(i >> shift) & 31] for shift in (0, 5, 10, 15))
        for i, id_ in enumerate(ids)
    }


def _rename(
    model: Mapping[str, Any], hidden: Mapping[str, str], added: Mapping[int, str]
) -> dict[str, Any]:
    """Copy a model with the hidden texts renamed and every merge that touches one left out.

    All of `added`, text by id, is made part of the vocabulary: the library gives an added token
    the id that its text has there, and else one of its own choice.
    """
    if isinstance(model["vocab"], list):  # Unigram: [text, score], the index is the id
        return {**model, "vocab": _rename_pieces(model["vocab"], hidden, added)}
    vocab = {text: id_ for text, id_ in model["vocab"].items() if text not in hidden}
    renamed = {**model, "vocab": vocab | {text: id_ for id_, text in added.items()}}
    if "merges" in model:
        renamed["merges"] = [merge for merge in model["merges"] if not _touches(merge, hidden)]
    if model.get("unk_token") in hidden:
        renamed["unk_token"] = hidden[model["unk_token"]]
    return renamed


def _rename_pieces(
    pieces: list[list[Any]], hidden: Mapping[str, str], added: Mapping[int, str]
) -> list[list[Any]]:
    renamed = [[hidden.get(text, text), score] for text, score in pieces]
    unused = secrets.token_hex(16)
    for id_ in range(len(pieces), max(added, default=-1) + 1):
        renamed.append([added.get(id_, f"{unused}{id_}"), 0.0])
    return renamed


def _touches(merge: str | list[str], hidden: Mapping[str, str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in hidden or right in hidden or left + right in hidden


def _alias(
    token: tokenizers.AddedToken, name: str, twin: tokenizers.Tokenizer
) -> tokenizers.AddedToken:
    """The token under its secret name, with the same rules for the white space around it."""
    is_kept = twin.normalizer is None or name in twin.normalizer.normalize_str(name)
    return tokenizers.AddedToken(
        name,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized and is_kept,
        special=token.special,
    )
