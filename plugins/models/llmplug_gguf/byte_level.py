"""Byte-level BPE tokenizers: GGUF's kind `gpt2`.

The file names the way in which a text is split before merging; the rules stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gguf.constants import Keys

from llmplug import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How a text is cut into words.

    Attributes:
        pattern: each match is a word; None: the rule of GPT-2, which the library has built in.
        has_single_digits: whether digits are cut from each other, and from all else, first.
        is_nfc: whether text is composed to Unicode's form C first.
        prefers_whole_words: a word that is a token is not merged from its bytes.
        adds_bos: whether texts begin with the bos token where the file does not say.
    """

    pattern: str | None = None
    has_single_digits: bool = False
    is_nfc: bool = False
    prefers_whole_words: bool = False
    adds_bos: bool = False


_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_THREE_DIGITS = Split(
    pattern=rf"{_ENDINGS}|{_LETTERS}|\p{{N}}{{1,3}}|{_OTHERS}",
    prefers_whole_words=True,
    adds_bos=True,
)
_ONE_DIGIT = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}|{_OTHERS}"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# By the value of tokenizer.ggml.pre. Each is the rule in the tokenizer.json of the models that
# the name stands for.
SPLITS: Mapping[str, Split] = {
    "default": Split(),
    "gpt-2": Split(),
    "phi-2": Split(),
    "smollm": Split(has_single_digits=True),
    "starcoder": Split(has_single_digits=True),
    "refact": Split(has_single_digits=True),
    "llama3": _THREE_DIGITS,
    "llama-v3": _THREE_DIGITS,
    "llama-bpe": _THREE_DIGITS,
    "smaug-bpe": _THREE_DIGITS,
    "qwen2": Split(pattern=_ONE_DIGIT, is_nfc=True),
    "deepseek-r1-qwen": Split(pattern=_ONE_DIGIT, adds_bos=True),
    "tekken": Split(pattern=_CASED, prefers_whole_words=True, adds_bos=True),
}
# Old files do not say; these are the only vocabularies of their architectures.
_UNSAID = {("qwen2", None): "qwen2", ("qwen3", None): "qwen2", ("llama", 128256): "llama-bpe"}


def describe(fields: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    """Write the tokenizer as tokenizer.json does, but for its added tokens.

    Raises:
        CheckpointError: the rule is unknown, or a merge is damaged.
    """
    split = _find_split(fields)
    steps: list[dict[str, Any]] = []
    if split.has_single_digits:
        steps.append({"type": "Digits", "individual_digits": True})
    if split.pattern is not None:
        pattern = {"Regex": split.pattern}
        steps.append({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
    steps.append({
        "type": "ByteLevel",
        "add_prefix_space": bool(fields.get(Keys.Tokenizer.ADD_PREFIX, False)),
        "trim_offsets": True,
        "use_regex": split.pattern is None,
    })  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "NFC"} if split.is_nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": split.prefers_whole_words,
            "vocab": {text: id_ for id_, text in enumerate(tokens)},
            "merges": read_merges(fields),
        },
    }


def adds_bos(fields: Mapping[str, Any]) -> bool:
    """Say whether texts begin with the bos token where the file does not say."""
    return _find_split(fields).adds_bos


def read_merges(fields: Mapping[str, Any]) -> list[list[str]]:
    """Read the merges, first merged first, as pairs."""
    merges = fields.get(Keys.Tokenizer.MERGES)
    if not isinstance(merges, list):
        raise CheckpointError(f"the field {Keys.Tokenizer.MERGES} is missing")
    # The left part may not be empty: a space within a token is written as another character.
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else [] for merge in merges]
    for index, pair in enumerate(pairs):
        if len(pair) != 2 or not all(pair):
            raise CheckpointError(
                f"entry {index} of {Keys.Tokenizer.MERGES} is no pair: {merges[index]!r}"
            )
    return pairs


def _find_split(fields: Mapping[str, Any]) -> Split:
    name = fields.get(Keys.Tokenizer.PRE)
    if name is None:
        architecture = str(fields.get(Keys.General.ARCHITECTURE))
        num_tokens = len(fields.get(Keys.Tokenizer.LIST, ()))
        name = _UNSAID.get((architecture, None)) or _UNSAID.get((architecture, num_tokens))
        if name is None:
            raise CheckpointError(
                f"the file does not say how text is split ({Keys.Tokenizer.PRE} is missing); "
                "convert the model again with a newer converter"
            )
    if name not in SPLITS:
        raise CheckpointError(
            f"the way to split text {name!r} ({Keys.Tokenizer.PRE}) is not known; known: "
            f"{', '.join(SPLITS)}"
        )
    return SPLITS[name]
