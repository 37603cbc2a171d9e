"""SentencePiece BPE tokenizers with byte fallback: GGUF's kind `llama`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gguf.constants import Keys, TokenType

from llmplug import CheckpointError
from llmplug_gguf.byte_level import read_merges

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmplug_gguf.tokenizer import Vocabulary

_SPACE = "\u2581"  # stands for a space within tokens


def describe(fields: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Write the tokenizer as tokenizer.json does, but for its added tokens.

    Raises:
        CheckpointError: there are no scores to merge by, or they do not fit the tokens.
    """
    has_prefix = bool(fields.get(Keys.Tokenizer.ADD_PREFIX, True))
    unknown = vocabulary.ids_of(TokenType.UNKNOWN)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = {"type": "Prepend", "prepend": _SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if has_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    has_merges = Keys.Tokenizer.MERGES in fields
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [prepend, replace] if has_prefix else [replace],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": vocabulary.tokens[unknown[0]] if unknown else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: id_ for id_, text in enumerate(vocabulary.tokens)},
            "merges": read_merges(fields) if has_merges else _merges(fields, vocabulary),
        },
    }


def _merges(fields: Mapping[str, Any], vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Turn scores into merges.

    SentencePiece joins the two neighbours that make the token with the best score. So each token
    is merged from every pair of tokens that spells it, in the order of its score.
    """
    scores = fields.get(Keys.Tokenizer.SCORES)
    if not isinstance(scores, list) or len(scores) != len(vocabulary.tokens):
        raise CheckpointError(f"{Keys.Tokenizer.SCORES} has not one entry per token")
    ids = {vocabulary.tokens[id_]: id_ for id_ in vocabulary.ids_of(TokenType.NORMAL)}
    by_score = sorted(ids, key=lambda text: (-scores[ids[text]], ids[text]))
    merges: list[tuple[str, str]] = []
    for text in by_score:
        pairs = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        known = [pair for pair in pairs if pair[0] in ids and pair[1] in ids]
        merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return merges
