"""How long a sequence waited for its first step is told with its first delta, once."""

from __future__ import annotations

from time import perf_counter

from engine.fake_model import drain, make_engine, make_request


def test_who_waits_for_a_place_waits_longer_than_who_has_one() -> None:
    engine = make_engine(max_sequences=1)
    started_at = perf_counter()
    for name in ("first", "second"):
        engine.add(make_request(name, [1, 2, 3], max_tokens=5))
    found = drain(engine)
    waited = {name: found[name, 0][0].queue_s for name in ("first", "second")}
    assert 0 < waited["first"] < waited["second"] < perf_counter() - started_at
    assert all(delta.queue_s == 0 for deltas in found.values() for delta in deltas[1:])
