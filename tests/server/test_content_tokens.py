"""Content is found among thinking and calls, token by token, whatever the parser drops."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llmplug.server.content_tokens import ContentTokens, PlacedToken
from llmplug.server.deltas import TokenText

# Pieces of an answer: what stands there, and what a parser makes of it.
WORDS = st.text(st.sampled_from("ab<>✓ "), min_size=1, max_size=6).filter(
    lambda text: text == text.strip()
)
PIECES = st.lists(
    st.one_of(
        st.tuples(st.just("content"), WORDS),
        st.tuples(st.just("reasoning"), WORDS),
        st.tuples(st.just("dropped"), st.sampled_from([" ", "\n\n", "</t>", "<call>"])),
    ),
    max_size=12,
)


def place(text: str, size: int, at: int) -> list[PlacedToken]:
    """Tokens of `size` characters that the text is made of."""
    return [
        PlacedToken(TokenText(at + i, i, None), at + min(i + size, len(text)))
        for i in range(0, len(text), size)
    ]


@settings(max_examples=300, deadline=None)
@given(pieces=PIECES, is_late=st.booleans())
def test_every_character_of_content_has_its_token(
    pieces: list[tuple[str, str]], is_late: bool
) -> None:
    """Tokens of one character: those that are found spell the content."""
    finder = ContentTokens(["</t>", "<call>"])
    whole = "".join(text for _, text in pieces)
    if is_late:  # the parser told nothing before it had seen all
        finder.add(whole, place(whole, 1, 0))
    at = 0
    for kind, text in pieces:
        if not is_late:
            finder.add(text, place(text, 1, at))
        at += len(text)
        if kind == "content":
            found = finder.take(text)
            assert "".join(whole[token.offset] for token in found) == text
        elif kind == "reasoning":
            finder.pass_over(text)


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 9))
def test_token_of_which_any_part_is_content_belongs_to_it(size: int) -> None:
    text = "ab</t>\n\nYes, b."
    finder = ContentTokens(["</t>"])
    finder.add(text, place(text, size, 0))
    finder.pass_over("ab")
    start = text.index("Yes")
    first, second = finder.take("Yes,"), finder.take(" b.")
    offsets = [token.offset for token in [*first, *second]]
    assert offsets == [i for i in range(0, len(text), size) if i + size > start]


def test_what_a_call_swallowed_is_passed() -> None:
    finder = ContentTokens(["<call>", "</call>"])
    at = 0
    for i, text in enumerate(["a", "<call>", "a", "</call>a"]):
        finder.add(text, [PlacedToken(TokenText(at, i, None), at + len(text))])
        at += len(text)
        if i == 0:
            assert [token.token_id for token in finder.take("a")] == [0]
        elif i == 2:
            finder.pass_call()
    finder.pass_call()
    assert [token.token_id for token in finder.take("a")] == [3]


def test_text_that_is_not_there_has_no_tokens() -> None:
    finder = ContentTokens([])
    finder.add("abc", place("abc", 1, 0))
    assert finder.take("x") == []
    assert [token.offset for token in finder.take("bc")] == [1, 2]


def test_long_calls_cost_no_more_than_their_length() -> None:
    finder = ContentTokens(["<call>"])
    for i in range(200_000):
        finder.add("x" * 5, [PlacedToken(TokenText(5 * i, i, None), 5 * i + 5)])
    finder.pass_call()
    assert [token.token_id for token in finder.take("xxxxx")] == [199_999]
