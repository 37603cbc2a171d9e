"""The queue's bound and the measured time to come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmplug.errors import Overloaded
from llmplug.server.admission import MAX_RETRY_S, Admission


def test_bound_counts_prompts() -> None:
    admission = Admission(3)
    first = admission.enter(2)
    with pytest.raises(Overloaded):
        admission.enter(2)
    second = admission.enter(1)
    first.start()
    assert admission.num_waiting == 2
    for ticket in (first, second, first):
        ticket.close()
    assert admission.num_waiting == 0


def test_retry_follows_the_measured_rate() -> None:
    now = [0.0]
    admission = Admission(100, clock=lambda: now[0])
    tickets = [admission.enter(1) for _ in range(80)]
    for ticket in tickets[:40]:
        now[0] += 2.0  # s between two starts
        ticket.start()
    # 40 wait; half of them start within 20 x 2 s.
    assert admission.estimate_wait_s() == pytest.approx(40, abs=1)
    for ticket in tickets[40:]:
        now[0] += 60
        ticket.start()
    admission.enter(50)
    assert admission.estimate_wait_s() == MAX_RETRY_S


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 6)), max_size=40))
def test_nothing_is_left_behind(steps: list[tuple[int, bool, int]]) -> None:
    admission = Admission(10)
    tickets = []
    for size, is_closed, num_starts in steps:
        try:
            ticket = admission.enter(size)
        except Overloaded:
            continue
        assert admission.num_waiting <= 10
        for _ in range(num_starts):
            ticket.start()
        if is_closed:
            ticket.close()
        tickets.append(ticket)
    for ticket in tickets:
        ticket.close()
    assert admission.num_waiting == 0
