"""Markers are found as a plain look at every place finds them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llmplug.answer_parts.marker_search import Found, MarkerSearch

LETTERS = st.sampled_from("ab<")
MARKERS = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=4)


def look(markers: list[str], text: str, *, is_whole: bool) -> tuple[int, str]:
    """Where the first marker stands, or the first place where one may still come."""
    for place in range(len(text)):
        rest = text[place:]
        if not is_whole and any(each != rest and each.startswith(rest) for each in markers):
            return place, ""
        found = [each for each in markers if rest.startswith(each)]
        if found:
            return place, max(found, key=len)
    return len(text), ""


@settings(max_examples=600, deadline=None)
@given(markers=MARKERS, text=st.text(LETTERS, max_size=9), is_whole=st.booleans())
def test_it_finds_what_a_plain_look_finds(markers: list[str], text: str, is_whole: bool) -> None:
    search = MarkerSearch(markers)
    place, marker = look(markers, text, is_whole=is_whole)
    assert search.find(text, is_whole=is_whole) == Found(place, marker)
    if text:
        at_start = marker if place == 0 else None
        assert search.begins(text, is_whole=is_whole) == at_start
