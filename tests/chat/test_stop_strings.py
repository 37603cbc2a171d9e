"""Stop strings are found where a plain search finds them, however the text is split."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from llmplug.chat.stop_strings import StopResult, StopStrings

# Few letters, so that overlaps are common.
TEXT = st.text("ab\n😀", max_size=40)
STOPS = st.lists(st.text("ab\n😀", max_size=4), max_size=4)


def search(text: str, stops: list[str]) -> tuple[int, int, str] | None:
    """The first place where any stop string is complete; the longest that ends there."""
    for end in range(1, len(text) + 1):
        for stop in sorted(filter(None, stops), key=len, reverse=True):
            if text[:end].endswith(stop):
                return end - len(stop), end, stop
    return None


def split(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places)]


@given(TEXT, STOPS, st.lists(st.integers(0, 100), max_size=10), st.booleans())
def test_equals_a_plain_search(
    text: str, stops: list[str], cuts: list[int], include_in_output: bool
) -> None:
    used = StopStrings(stops, include_in_output)
    used.feed("ab")
    watcher = used.copy()  # what it was fed is not known to its copy
    out, matched = "", None
    for piece in split(text, cuts):
        piece_out, matched = watcher.feed(piece)
        out += piece_out
        if matched is not None:
            break
    out += watcher.finish()
    found = search(text, stops)
    if found is None:
        assert (out, matched) == (text, None)
    else:
        start, end, stop = found
        assert (out, matched) == (text[: end if include_in_output else start], stop)


@given(TEXT, STOPS)
def test_holds_back_no_more_than_could_become_a_stop(text: str, stops: list[str]) -> None:
    watcher = StopStrings(stops)
    sent = ""
    for i, letter in enumerate(text, start=1):
        piece, matched = watcher.feed(letter)
        if matched is not None:
            return
        sent += piece
        held = text[len(sent) : i]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_nothing_to_stop_at() -> None:
    assert StopStrings([]).feed("abc") == StopResult("abc", None)
    assert StopStrings([""]).feed("abc") == StopResult("abc", None)


def test_text_after_the_stop_is_dropped() -> None:
    assert StopStrings(["END"]).feed("one END two END") == StopResult("one ", "END")
    assert StopStrings(["END"], True).feed("one END two") == StopResult("one END", "END")
