"""The waiting queue against a sort of all who wait."""

from __future__ import annotations

from engine.fake_model import make_request
from hypothesis import given, settings
from hypothesis import strategies as st

from llmplug.engine.fairness import FairShare
from llmplug.engine.sequence import Sequence
from llmplug.engine.waiting import WaitingQueue


def make_sequence(arrival: int, priority: int, tenant: str) -> Sequence:
    request = make_request(str(arrival), [1] * (1 + arrival), priority=priority, tenant=tenant)
    return Sequence(request, 0, seed=0, eos_token_ids=frozenset(), arrival=arrival)


@given(
    arrivals=st.lists(st.tuples(st.integers(-1, 1), st.sampled_from("abc")), max_size=12),
    charged=st.sets(st.integers(0, 11)),
    removed=st.sets(st.integers(0, 11)),
)
@settings(deadline=None)
def test_next_is_by_priority_then_service_then_arrival(arrivals, charged, removed) -> None:
    shares = FairShare()
    queue = WaitingQueue(shares)
    waiting = [make_sequence(i, *arrival) for i, arrival in enumerate(arrivals)]
    for sequence in waiting:
        shares.enter(sequence, ())
        queue.add(sequence)
    for i in charged & set(range(len(waiting))):
        shares.charge_prompt(waiting[i])
    for i in sorted(removed & set(range(len(waiting))), reverse=True):
        queue.remove(waiting.pop(i))
    assert sorted(map(id, queue)) == sorted(map(id, waiting))
    assert len(queue) == len(waiting)

    def order(sequence: Sequence) -> tuple[int, int, int]:
        priority, arrival = sequence.rank
        return priority, shares.served(sequence.request.tenant), arrival

    # A tenant's own sequences keep their rank, so that all in all a sort gives the order.
    expected = sorted(waiting, key=order)
    assert queue.best_priority == (expected[0].priority if expected else None)
    passed: dict[str, int] = {}
    for sequence in expected:
        assert queue.find_next(passed) is sequence
        tenant = sequence.request.tenant
        passed[tenant] = passed.get(tenant, 0) + 1
    assert queue.find_next(passed) is None
