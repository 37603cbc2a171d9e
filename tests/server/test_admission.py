"""The queue's bound and the measured time to come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmplug.errors import Overloaded
from llmplug.server.admission import MAX_RETRY_S, Admission, CallerLimits


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


def test_bytes_are_bounded_but_one_request_always_fits() -> None:
    admission = Admission(100, max_bytes=1000)
    large = admission.enter(1, num_bytes=5000)
    with pytest.raises(Overloaded, match="5000 bytes"):
        admission.enter(1, num_bytes=1)
    large.start()
    with pytest.raises(Overloaded):  # its body is held until it is answered
        admission.enter(1, num_bytes=1)
    large.close()
    admission.enter(1, num_bytes=1).close()
    assert (admission.num_waiting, admission.num_bytes, admission.num_callers) == (0, 0, 0)


def test_one_caller_leaves_room_for_others() -> None:
    admission = Admission(8)
    tickets = [admission.enter(1, caller="a") for _ in range(6)]
    with pytest.raises(Overloaded, match="others must find room"):
        admission.enter(1, caller="a")
    tickets += [admission.enter(2, caller="b")]
    for ticket in tickets:
        ticket.close()
    assert (admission.num_waiting, admission.num_callers) == (0, 0)


def test_one_model_of_several_leaves_room_for_others() -> None:
    admission = Admission(8, num_models=2)
    tickets = [admission.enter(1, model="a", caller=caller) for caller in "uvwxyz"]
    with pytest.raises(Overloaded, match="other models must find room"):
        admission.enter(1, model="a")
    tickets.append(admission.enter(2, model="b"))
    tickets[0].start()
    tickets.append(admission.enter(1, model="a"))
    for ticket in tickets:
        ticket.close()
    assert admission.num_waiting == 0
    admission.enter(6, model="a").close()
    Admission(8, num_models=1).enter(8, model="a").close()  # it has all the room alone


def test_a_caller_has_so_many_at_once() -> None:
    admission = Admission(100)
    limits = CallerLimits(max_running=2)
    first, _ = (admission.enter(3, caller="a", limits=limits) for _ in range(2))
    first.start()
    with pytest.raises(Overloaded, match="2 requests at once"):
        admission.enter(1, caller="a", limits=limits)
    admission.enter(1, caller="b", limits=limits)
    first.close()
    admission.enter(1, caller="a", limits=limits)


def test_a_caller_keeps_to_its_rate() -> None:
    now = [0.0]
    admission = Admission(100, clock=lambda: now[0])
    limits = CallerLimits(per_minute=60)

    def ask() -> int:
        """Requests that are let in now."""
        for count in range(1000):
            try:
                admission.enter(1, caller="a", limits=limits).close()
            except Overloaded:
                return count
        return 1000

    assert ask() == 10  # what adds up in 10 s
    now[0] += 3
    assert ask() == 3
    now[0] += 3600
    assert ask() == 10
    slow = CallerLimits(per_minute=2)
    admission.enter(1, caller="b", limits=slow).close()
    with pytest.raises(Overloaded, match="2 requests a minute") as caught:
        admission.enter(1, caller="b", limits=slow)
    assert caught.value.retry_after_s == 30


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
