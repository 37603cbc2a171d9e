"""Compile grammars with llguidance and follow them token by token."""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from llmplug import GrammarError
from llmplug_llguidance.lark import write_grammar

if TYPE_CHECKING:
    from llmplug.grammar import Node, Vocabulary

# What a matcher holds beside its grammar's text, lazily built states included: a guess on the
# safe side, as the library does not tell.
_BYTES_PER_CHAR = 64


class LlguidanceBackend:
    """Compiles grammars for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Tokens(vocabulary)),
            n_vocab=len(vocabulary.token_bytes),
            eos_token=sorted(vocabulary.end_ids),
        )
        # A row of 1000 items is 250 optional properties in one object; the most ambiguous grammar
        # that keeps to it takes a tenth of a second a token, one with 2000 more than a second.
        self._limits = LLParserLimits(
            max_items_in_row=1_000,
            step_max_items=50_000,
            initial_lexer_fuel=1_000_000,
            step_lexer_fuel=200_000,
            max_lexer_states=250_000,
            max_grammar_size=500_000,
            verbose_errors=False,
        )

    def compile(self, node: Node) -> LlguidanceGrammar:
        """Compile a tree; see `GrammarBackend`."""
        source = write_grammar(node, self._vocabulary, self._fits_nothing)
        matcher = self._match(source)
        if matcher.is_error():
            raise GrammarError(_plain_words(matcher.get_error()))
        warnings = matcher.get_grammar_warnings()
        if warnings:
            raise GrammarError(_plain_words(warnings[0]))
        return LlguidanceGrammar(matcher, num_bytes=len(source) * _BYTES_PER_CHAR)

    def _match(self, source: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, source, log_level=0, limits=self._limits)

    def _fits_nothing(self, terminal: str) -> bool:
        """Whether the empty text fits; what is malformed is told when the whole is compiled."""
        matcher = self._match(f"start: TERMINAL\nTERMINAL: {terminal}")
        return not matcher.is_error() and matcher.is_accepting()


class LlguidanceGrammar:
    """A compiled grammar."""

    def __init__(self, matcher: LLMatcher, *, num_bytes: int) -> None:
        self._matcher = matcher
        self._num_bytes = num_bytes

    @property
    def num_bytes(self) -> int:
        """About how much memory it holds."""
        return self._num_bytes

    def start(self) -> LlguidanceState:
        """Begin an answer."""
        return LlguidanceState(self._matcher.deep_copy())


class LlguidanceState:
    """Where one answer stands."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def fill_mask(self, mask: memoryview) -> None:
        """Write which ids may come next; see `GrammarState`."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(mask))
        self._matcher.unsafe_compute_mask_ptr(address, mask.nbytes)
        if self._matcher.is_error():
            raise GrammarError(_plain_words(self._matcher.get_error()))

    def accept(self, token_id: int) -> bool:
        """Go on by one token; see `GrammarState`."""
        is_taken = self._matcher.try_consume_tokens([token_id]) == 1
        if self._matcher.is_error():
            raise GrammarError(_plain_words(self._matcher.get_error()))
        return is_taken

    @property
    def is_done(self) -> bool:
        """Whether nothing but an end may follow."""
        return self._matcher.is_stopped()


class _Tokens:
    """A vocabulary as llguidance wants it."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = min(vocabulary.end_ids)
        self.tokens = list(vocabulary.token_bytes)
        self.special_token_ids = sorted({*vocabulary.control_ids.values(), *vocabulary.end_ids})
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def _plain_words(message: str) -> str:
    """The library's words, without the places in the Lark text that we made."""
    lines = message.strip().splitlines() or [""]
    line = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", lines[0])
    if line == "NoExtensionBias":
        return "nothing fits the grammar"
    if line.startswith("oneOf constraints are not supported"):
        return "'oneOf' is followed only where no value fits two branches: use 'anyOf'"
    reasons = [each.removeprefix("error: ") for each in lines[1:] if each.startswith("error: ")]
    return " ".join([line, *reasons])
