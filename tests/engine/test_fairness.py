"""Virtual token counters: who is served, counted here a second time and independently."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from engine.fake_model import drain, make_engine, make_request, make_settings, output_of

from llmplug.engine.block_pool import BlockPool
from llmplug.engine.fairness import OUTPUT_WEIGHT, PROMPT_WEIGHT, FairShare
from llmplug.engine.scheduler import Scheduler
from llmplug.engine.sequence import Sequence


class Office:
    """A scheduler that is played without a model, and the service that each tenant got."""

    def __init__(self, **changes) -> None:
        settings = make_settings(**{"num_pages": 200, "max_sequences": 4, **changes})
        self.pool = BlockPool(settings.num_pages, settings.page_size)
        self.scheduler = Scheduler(settings, self.pool)
        self.num_added = 0
        self.started: list[Sequence] = []
        self.served: Counter[str] = Counter()

    def add(self, tenant: str, num_prompt: int = 20, max_tokens: int = 10, **changes) -> Sequence:
        prompt = [self.num_added % 90 + 1, *[0] * (num_prompt - 1)]  # no two share a prefix
        request = make_request(
            str(self.num_added), prompt, max_tokens=max_tokens, tenant=tenant, **changes
        )
        sequence = Sequence(request, 0, seed=0, eos_token_ids=frozenset(), arrival=self.num_added)
        self.num_added += 1
        self.scheduler.add(sequence)
        return sequence

    @property
    def started_tenants(self) -> list[str]:
        return [sequence.request.tenant for sequence in self.started]

    def step(self) -> None:
        before = set(self.scheduler.running)
        schedule = self.scheduler.schedule()
        for sequence in self.scheduler.running:
            if sequence not in before:
                self.started.append(sequence)
                self.served[sequence.request.tenant] += PROMPT_WEIGHT * sequence.num_prompt
        for sequence, count in schedule:
            is_complete = count == sequence.num_missing
            self.scheduler.advance(sequence, count)
            if is_complete:
                self.served[sequence.request.tenant] += OUTPUT_WEIGHT
                if sequence.append(1) is not None:
                    self.scheduler.remove(sequence)


def test_one_tenant_is_served_in_the_order_of_arrival() -> None:
    source = random.Random(1)
    office = Office()
    added = [office.add("only", source.randint(1, 40), source.randint(1, 12)) for _ in range(30)]
    while len(office.started) < 30:
        office.step()
    assert office.started == added


def test_a_flood_of_one_tenant_does_not_hold_up_another() -> None:
    office = Office()
    for _ in range(40):
        office.add("flood")
    for _ in range(3):
        office.step()
    office.add("single")
    for _ in range(15):  # until the first of four places is free
        office.step()
    assert "single" in office.started_tenants[:6]


def test_tenants_that_always_wait_are_served_alike() -> None:
    """As the paper bounds it (theorem 4.4): twice the service that may be running at once."""
    source = random.Random(2)
    office = Office()
    sizes = {"short": (5, 8), "long": (60, 30), "wordy": (10, 60)}

    def refill() -> None:
        waiting = Counter(sequence.request.tenant for sequence in office.scheduler.waiting)
        for tenant, (num_prompt, max_tokens) in sizes.items():
            for _ in range(5 - waiting[tenant]):
                office.add(tenant, num_prompt, source.randint(1, max_tokens))

    bound = 2 * 4 * max(PROMPT_WEIGHT * n + OUTPUT_WEIGHT * m for n, m in sizes.values())
    for _ in range(3000):
        refill()
        office.step()
        served = [office.served[tenant] for tenant in sizes]
        assert max(served) - min(served) <= bound
    assert min(served) > 10 * bound, "nothing was measured"


def test_nobody_saves_up_while_idle() -> None:
    office = Office()
    for _ in range(60):
        office.add("busy")
    for _ in range(100):
        office.step()
    before = len(office.started)
    for _ in range(20):
        office.add("late")
    for _ in range(60):
        office.step()
    both = Counter(office.started_tenants[before:])
    assert abs(both["busy"] - both["late"]) <= 4, "the late one was paid for the time before"


def test_who_leaves_for_a_moment_keeps_what_it_had() -> None:
    shares = FairShare()
    office = Office()
    poor, rich = office.add("poor"), office.add("rich", num_prompt=60)
    for sequence in (poor, rich):
        shares.enter(sequence, ())
        shares.charge_prompt(sequence)
    shares.leave(rich)
    assert len(shares) == 2
    shares.enter(rich, ())
    assert (shares.served("poor"), shares.served("rich")) == (20, 20 + 60)  # lifted when it came


def test_idle_tenants_are_forgotten() -> None:
    office = Office()
    shares = office.scheduler._shares
    for number in range(200):
        office.add(f"tenant {number}", max_tokens=2)
        office.step()
    while office.scheduler.running or office.scheduler.waiting:
        office.step()
        assert len(shares) <= 200
    assert len(shares) == 0
    office.add("steady", max_tokens=150)
    office.step()
    for number in range(100):
        office.add(f"passing {number}", num_prompt=1, max_tokens=1)
        office.step()
    assert len(shares) < 10


def test_priority_goes_before_fairness() -> None:
    office = Office(max_sequences=1)
    for _ in range(3):
        office.add("served", priority=-1)
        office.add("other")
    while office.scheduler.running or office.scheduler.waiting:
        office.step()
    assert office.started_tenants[:3] == ["served"] * 3


def test_cached_prompt_tokens_are_free() -> None:
    office = Office()
    shares = office.scheduler._shares
    first = office.add("a", num_prompt=40, max_tokens=100)
    for _ in range(5):
        office.step()
    again = make_request("again", first.request.prompt_ids, tenant="b", max_tokens=100)
    office.scheduler.add(Sequence(again, 0, seed=0, eos_token_ids=frozenset(), arrival=99))
    before = shares.served("b")
    office.step()
    assert shares.served("b") - before == 40 - 36  # nine full pages of four are known


@pytest.mark.parametrize("num_pages", [24, 200])  # 24: sequences are preempted
def test_tokens_of_preempted_sequences_are_charged_once(num_pages) -> None:
    office = Office(num_pages=num_pages, context_length=90)
    shares = office.scheduler._shares
    for _ in range(6):
        office.add("a", num_prompt=20, max_tokens=30)
    office.add("stays", num_prompt=1, max_tokens=80)
    served, scheduler = 0, office.scheduler
    while any(s.request.tenant == "a" for s in [*scheduler.running, *scheduler.waiting]):
        shares.charge_outputs(scheduler.running)
        served = shares.served("a")
        office.step()
    assert (office.scheduler.num_preemptions > 0) == (num_pages == 24)
    total = 6 * (20 * PROMPT_WEIGHT + 30 * OUTPUT_WEIGHT)
    assert total - 4 * OUTPUT_WEIGHT <= served <= total  # but for the last step


def test_tenants_change_the_order_and_not_the_tokens() -> None:
    outputs = []
    for tenants in (("", ""), ("a", "b")):
        engine = make_engine(max_sequences=2)
        for number in range(12):
            prompt = [number, 7, 9]
            engine.add(make_request(str(number), prompt, tenant=tenants[number >= 9]))
        found = drain(engine)
        outputs.append({key: output_of(deltas) for key, deltas in found.items()})
    assert outputs[0] == outputs[1]
    assert list(outputs[0]) != list(outputs[1])
