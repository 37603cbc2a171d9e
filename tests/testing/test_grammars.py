"""The check of grammar backends finds what is planted, and passes what is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmplug import GrammarError, GrammarSpec
from llmplug.grammar import Json, Lark, Node, Regex, Text
from llmplug.testing import Case, check_grammar
from llmplug_llguidance.backend import LlguidanceBackend


class Wrapped:
    """A backend that is right, with something changed."""

    def __init__(self, vocabulary: Any) -> None:
        self.inner = LlguidanceBackend(vocabulary)

    def compile(self, node: Node) -> Any:
        return WrappedGrammar(self.inner.compile(node), self.wrap)

    def wrap(self, state: Any) -> Any:
        return state


class WrappedGrammar:
    def __init__(self, inner: Any, wrap: Callable[[Any], Any]) -> None:
        self.inner, self.wrap = inner, wrap
        self.num_bytes = inner.num_bytes

    def start(self) -> Any:
        return self.wrap(self.inner.start())


class SharesItsState(Wrapped):
    def compile(self, node: Node) -> Any:
        grammar = super().compile(node)
        if node == Text("ab"):
            state = grammar.start()
            grammar.start = lambda: state
        return grammar


class State:
    """A state with something changed."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def fill_mask(self, mask: memoryview) -> None:
        self.inner.fill_mask(mask)

    def accept(self, token_id: int) -> bool:
        return self.inner.accept(token_id)

    @property
    def is_done(self) -> bool:
        return self.inner.is_done


class MasksOneBitTooMany(State):
    def fill_mask(self, mask: memoryview) -> None:
        super().fill_mask(mask)
        mask[ord("y") // 32] |= 1 << (ord("y") % 32)


class AllowsTheEndAnywhere(State):
    def fill_mask(self, mask: memoryview) -> None:
        super().fill_mask(mask)
        mask[8] |= 1


class MasksOneBitTooManyBackend(Wrapped):
    wrap = staticmethod(MasksOneBitTooMany)


class AllowsTheEndAnywhereBackend(Wrapped):
    wrap = staticmethod(AllowsTheEndAnywhere)


class PassesKeywordsOver(Wrapped):
    def compile(self, node: Node) -> Any:
        if isinstance(node, Json) and isinstance(node.schema, dict):
            node = Json({k: v for k, v in node.schema.items() if k != "uniqueItems"})
        return super().compile(node)


class ForgetsMinimum(Wrapped):
    def compile(self, node: Node) -> Any:
        if isinstance(node, Json) and isinstance(node.schema, dict):
            node = Json({k: v for k, v in node.schema.items() if k != "minimum"})
        return super().compile(node)


class IsVague(Wrapped):
    def compile(self, node: Node) -> Any:
        try:
            return super().compile(node)
        except GrammarError:
            raise GrammarError("this is not possible") from None


class RefusesLarkInSilence(Wrapped):
    def compile(self, node: Node) -> Any:
        if isinstance(node, Lark):
            raise GrammarError("no")
        return super().compile(node)


class CountsNoBytes(Wrapped):
    def compile(self, node: Node) -> Any:
        grammar = super().compile(node)
        grammar.num_bytes = 0
        return grammar


def make_spec(backend: Callable[[Any], Any]) -> GrammarSpec:
    return GrammarSpec(name="mine", open=backend)


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (SharesItsState, "answers that share a grammar share their place|'ab' allows 'aa'"),
        (MasksOneBitTooManyBackend, "`fill_mask` says True and `accept` the contrary"),
        (AllowsTheEndAnywhereBackend, "as a whole answer, which does not fit"),
        (PassesKeywordsOver, "uniqueItems.* is compiled: what is not followed"),
        (ForgetsMinimum, "'minimum': 3.*allows '2' as a whole answer"),
        (IsVague, "is refused with .*this is not possible"),
        (RefusesLarkInSilence, "is refused with 'no': name what is not followed, one of lark"),
        (CountsNoBytes, "`num_bytes` is 0"),
    ],
)
def test_a_planted_bug_is_found(backend: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_grammar(make_spec(backend))


def test_cases_of_ones_own_are_tried() -> None:
    """A backend that is right passes, and its own cases count."""
    check_grammar(make_spec(Wrapped), more=[Case(Regex("a+"), ("a", "aa"), ("", "b"))])
    with pytest.raises(AssertionError, match="does not allow 'b' as a whole answer"):
        check_grammar(make_spec(Wrapped), more=[Case(Regex("a+"), ("b",), ())])
