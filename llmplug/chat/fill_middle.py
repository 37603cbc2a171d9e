"""Prompts that ask for what stands between two texts.

A model that can fill a gap has control tokens for it; which ones, and in which order, is a row of
`STYLES`, found by looking into the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmplug.chat.enough import ALL, Enough

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.chat.tokenizer import Tokenizer

# A text that follows a marker must not get the space that some tokenizers put before a text's
# first word: it is encoded behind this character, which no word is joined to.
_ANCHOR = "\u263a"
_WORD_START = "\u2581"  # how such tokenizers write a space


@dataclass(frozen=True, slots=True)
class MiddleStyle:
    """The markers of one kind of prompt.

    With `suffix_first` what follows comes before what precedes.
    """

    before_prefix: str
    before_suffix: str
    before_middle: str  # "": nothing, the answer follows the last text
    suffix_first: bool = False
    ends: tuple[str, ...] = ()  # tokens that end a middle, beside the model's own


# Source: the cards and tokenizers of models that were trained so; https://arxiv.org/abs/2207.14255
# calls the orders PSM and SPM.
STYLES: Sequence[MiddleStyle] = (
    MiddleStyle(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ends=(
            "<|fim_pad|>",
            "<|endoftext|>",
            "<|repo_name|>",
            "<|file_sep|>",
            "<|file_separator|>",
        ),
    ),
    MiddleStyle(
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
        ends=("<fim_pad>", "<|endoftext|>", "<file_sep>", "<repo_name>"),
    ),
    MiddleStyle("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ends=("<|endoftext|>",)),
    MiddleStyle("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", ends=("\u2581<EOT>",)),
    MiddleStyle(
        "<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"
    ),
    MiddleStyle("[PREFIX]", "[SUFFIX]", "", suffix_first=True),
)


def find_style(tokenizer: Tokenizer) -> MiddleStyle | None:
    """Return the row whose markers a vocabulary has; None: the model fills no gaps."""
    for style in STYLES:
        markers = (style.before_prefix, style.before_suffix, style.before_middle)
        if all(tokenizer.id_of(text) is not None for text in markers if text):
            return style
    return None


def find_ends(tokenizer: Tokenizer, style: MiddleStyle) -> tuple[int, ...]:
    """Return the tokens that end a middle."""
    ids = (tokenizer.id_of(text) for text in style.ends)
    return tuple(id_ for id_ in ids if id_ is not None)


def encode_gap(
    tokenizer: Tokenizer,
    style: MiddleStyle,
    prefix: str,
    suffix: str,
    *,
    add_special_tokens: bool = True,
    enough: Enough = ALL,
) -> list[int]:
    """Return the prompt that asks for what stands between two texts.

    What the texts spell stays text.

    Args:
        add_special_tokens: begin with the bos token, where the model's texts do.
        enough: how much of a text that is too long is wanted.
    """
    before = _encode(tokenizer, prefix, enough, joins=False)
    after = _encode(tokenizer, suffix, enough, joins=True)
    before = [*_marker(tokenizer, style.before_prefix), *before]
    after = [*_marker(tokenizer, style.before_suffix), *after]
    parts = [after, before] if style.suffix_first else [before, after]
    head = tokenizer.frame_start if add_special_tokens else ()
    return [*head, *parts[0], *parts[1], *_marker(tokenizer, style.before_middle)]


def _marker(tokenizer: Tokenizer, text: str) -> list[int]:
    id_ = tokenizer.id_of(text) if text else None
    return [] if id_ is None else [id_]


def _encode(tokenizer: Tokenizer, text: str, enough: Enough, *, joins: bool) -> list[int]:
    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False, allow_control=False, enough=enough)

    if joins and tokenizer.id_of(_WORD_START) is not None:
        anchor, ids = encode(_ANCHOR), encode(_ANCHOR + text)
        if ids[: len(anchor)] == anchor:
            return ids[len(anchor) :]
    return encode(text)
