"""Progress is a bar on a terminal and a few lines elsewhere; tables are aligned, never cut."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmplug.cli.terminal import TerminalProgress, format_amount, format_table


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_without_a_terminal_each_quarter_is_a_line() -> None:
    stream = io.StringIO()
    progress = TerminalProgress(stream)
    for done in range(0, 2_000_001, 1000):
        progress("fetch", done, 2_000_000)
    assert stream.getvalue().splitlines() == [
        "fetch: 0 % (0.0/2.0 MB)",
        "fetch: 25 % (0.5/2.0 MB)",
        "fetch: 50 % (1.0/2.0 MB)",
        "fetch: 75 % (1.5/2.0 MB)",
        "fetch: 100 % (2.0/2.0 MB)",
    ]


@given(st.integers(1, 1000), st.lists(st.integers(0, 1000)))
def test_without_a_terminal_lines_are_few(total: int, steps: list[int]) -> None:
    stream = io.StringIO()
    with TerminalProgress(stream) as progress:
        for step in sorted(min(step, total) for step in steps):
            progress("pack", step, total)
    assert len(stream.getvalue().splitlines()) <= min(5, len(steps))


def test_unknown_total_is_a_line_a_doubling() -> None:
    stream = io.StringIO()
    progress = TerminalProgress(stream)
    for done in range(1025):
        progress("read", done, 0)
    assert len(stream.getvalue().splitlines()) == 12
    assert stream.getvalue().splitlines()[-1] == "read: (1024)"


def test_stages_do_not_mix() -> None:
    stream = io.StringIO()
    progress = TerminalProgress(stream)
    for stage, done in (("a", 1), ("b", 0), ("a", 2), ("b", 2)):
        progress(stage, done, 2)
    assert [line.split(" (")[0] for line in stream.getvalue().splitlines()] == [
        "a: 50 %",
        "b: 0 %",
        "a: 100 %",
        "b: 100 %",
    ]


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with TerminalProgress(stream) as progress:
        progress("fetch", 500_000, 1_000_000)
        progress("fetch", 1_000_000, 1_000_000)
    assert "fetch" in stream.getvalue()
    assert "1.0/1.0 MB" in stream.getvalue()


def test_bar_gives_the_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = TerminalProgress(stream)
    progress("fetch", 1, 2)
    progress.close()
    progress.close()
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert stream.getvalue().count(hidden) == stream.getvalue().count(shown) == 1


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (3, 30, "3/30"),
        (3, 0, "3"),
        (12_300_000, 98_100_000, "12.3/98.1 MB"),
        (12_300_000, 0, "12.3 MB"),
        (0, 98_100_000, "0.0/98.1 MB"),
    ],
)
def test_amounts_are_readable(done: int, total: int, text: str) -> None:
    assert format_amount(done, total) == text


def test_table_is_aligned() -> None:
    assert format_table([("A", "LONG"), ("bcd", "e"), ("f", "")]) == ["A    LONG", "bcd  e", "f"]
