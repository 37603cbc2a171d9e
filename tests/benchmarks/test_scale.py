"""The simulation of many servers, against formulas that hold for all of them."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import simpy

from benchmarks.results import read_lines
from benchmarks.scale.capacity import Demand, find_capacity
from benchmarks.scale.fleet import MAX_RETRIES, Fleet
from benchmarks.scale.replica import Limits, Replica
from benchmarks.scale.routing import ROUTERS, make_router
from benchmarks.scale.scaling import Autoscaler, ScalingRules
from benchmarks.scale.speed import CHUNK, PREFILL, Speed, fit, relative_errors
from benchmarks.scale.studies import MEASURED, find_demand, load_machines, run
from benchmarks.scale.traffic import CHAT, CODE, LONG, Profile, Question, draw

SPEED = Speed(step=0.004, token=0.001, sampled=0.0008, read=3.6e-6, pair=1.5e-6, around=0.03)
SHORT = replace(CHAT, instructions=50, message=20, answer=20, think_s=5.0)


def make_question(num_prompt: int, num_output: int, number: int = 0) -> Question:
    return Question(number, 0, 0, [], num_prompt, num_output)


def make_fleet(router: str = "least loaded", num_servers: int = 3, **options: Any) -> Fleet:
    made = make_router(router, 1, num_servers, SPEED.cache_tokens)
    return Fleet(SPEED, num_servers, made, **options)


def run_alone(question: Question, speed: Speed = SPEED) -> tuple[float, float]:
    """Seconds to the first and to the last token."""
    env = simpy.Environment()
    job = Replica(env, 0, speed).take(question)
    env.run(until=job.done)
    assert job.first_at is not None
    return job.first_at, env.now


def test_one_request_takes_what_its_steps_take() -> None:
    prompt, output = 600, 20
    first, last = run_alone(make_question(prompt, output))
    chunks = [256, 256, 88]
    reading = sum(
        SPEED.step + SPEED.token * chunk + SPEED.pair * chunk * (sum(chunks[:i]) + chunk / 2)
        for i, chunk in enumerate(chunks)
    )
    writing = sum(
        SPEED.step + SPEED.token + SPEED.sampled + SPEED.read * (prompt + i)
        for i in range(output - 1)
    )
    assert first == pytest.approx(reading + SPEED.sampled)
    assert last == pytest.approx(first + writing)
    assert first == pytest.approx(SPEED.prompt_s(prompt))


def test_no_step_beside_answers_is_longer_than_its_budget() -> None:
    """Whoever is being answered sees no gap of more than 50 ms, or four steps without prompts."""
    env = simpy.Environment()
    replica = Replica(env, 0, SPEED)
    writing = replica.take(make_question(16, 4000))
    env.run(until=1.0)
    reading = replica.take(make_question(5000, 1, 1))
    env.run(until=reading.done)
    assert not writing.done.triggered
    took = env.now - 1.0
    alone = SPEED.prompt_s(5000)
    step = SPEED.decode_s(1, 200)
    # Of each step of 50 ms, the prompt has all but the answer's own part.
    assert took == pytest.approx(alone * 0.05 / (0.05 - step), rel=0.15)


@pytest.mark.parametrize("router", ROUTERS)
def test_every_request_ends_once(router: str) -> None:
    conversations = list(draw(SHORT, 12.0, 60.0, seed=3))
    fleet = make_fleet(router, limits=Limits(max_sequences=4, max_waiting=3))
    report = fleet.run(conversations)
    ended: dict[int, list[Any]] = {}
    for outcome in report.outcomes:
        ended.setdefault(outcome.question.conversation, []).append(outcome)
    refused = [one for one in report.outcomes if one.ended_at is None]
    assert refused, "nobody was refused: the test says less than it should"
    for number, conversation in enumerate(conversations):
        outcomes = ended[number]
        assert [one.question for one in outcomes] == conversation.questions[: len(outcomes)]
        given_up = [one.ended_at is None for one in outcomes]
        is_whole = len(outcomes) == len(conversation.questions) and not any(given_up)
        assert is_whole or given_up == [False] * (len(outcomes) - 1) + [True]
    assert all(one.num_refused == MAX_RETRIES + 1 for one in refused)
    for server in fleet.servers:
        assert (server.num_jobs, server.num_tokens) == (0, 0)
        assert server.admission.num_waiting == 0
    answered = len(report.outcomes) - len(refused)
    assert sum(server.num_ended for server in fleet.servers) == answered


def test_no_server_lets_more_wait_than_it_may() -> None:
    env = simpy.Environment()
    replica = Replica(env, 0, SPEED, Limits(max_sequences=1, max_waiting=5))
    from llmplug.errors import Overloaded

    for number in range(5):
        replica.take(make_question(100, 10, number))
    with pytest.raises(Overloaded):
        replica.take(make_question(100, 10, 6))
    env.run()
    assert replica.num_ended == 5


def test_littles_law() -> None:
    """Mean number inside = rate x mean time inside; seen by servers, and by those who ask."""
    seen: list[int] = []
    fleet = make_fleet("two choices", num_servers=4)

    def look() -> Any:
        while True:
            yield fleet.env.timeout(0.25)
            seen.append(sum(server.num_jobs for server in fleet.servers))

    fleet.env.process(look())
    seconds = 900.0
    report = fleet.run(draw(SHORT, 2.0, seconds, seed=5))
    times = [(one.ended_at or 0) - one.asked_at - SPEED.around for one in report.outcomes]
    rate = len(times) / fleet.env.now
    inside = rate * statistics.mean(times)
    assert statistics.mean(seen) == pytest.approx(inside, rel=0.03)
    assert report.inside.area / fleet.env.now == pytest.approx(inside, rel=1e-6)


def erlang_c(servers: int, load: float) -> float:
    """The chance to wait in M/M/c; load in servers."""
    terms = [load**n / math.factorial(n) for n in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize(("places", "busy"), [(1, 0.6), (4, 0.8)])
def test_waiting_times_of_mmc(places: int, busy: float) -> None:
    """Steps that cost the same however many share them, and answers without a memory: M/M/c."""
    step_s, mean_s = 0.005, 1.0
    speed = Speed(step=step_s, token=0, sampled=0, read=0, pair=0)
    rng = random.Random(11)
    env = simpy.Environment()
    replica = Replica(env, 0, speed, Limits(max_sequences=places, max_waiting=10**6))
    rate = busy * places / mean_s
    jobs = []

    def arrive() -> Any:
        for number in range(12_000):
            yield env.timeout(rng.expovariate(rate))
            tokens = 1 + int(math.log(rng.random()) / math.log(1 - step_s / mean_s))
            jobs.append(replica.take(make_question(1, tokens, number)))

    env.process(arrive())
    env.run()
    waited = statistics.mean((job.started_at or 0) - job.arrived_at for job in jobs)
    expected = erlang_c(places, busy * places) / (places / mean_s - rate)
    assert waited == pytest.approx(expected, rel=0.1)


def test_equal_seeds_give_equal_rows() -> None:
    machine = load_machines()["cpu"]
    rows = [
        run(machine, SHORT, "prefix affine", num_servers=2, load=0.8, seconds=200.0, seed=seed)
        for seed in (7, 7, 8)
    ]
    assert rows[0] == rows[1] != rows[2]


@pytest.mark.parametrize(
    ("profile", "measure", "prompt", "output"),
    [
        (CHAT, statistics.median, 1020, 129),
        (CODE, statistics.median, 1500, 13),
        (LONG, statistics.mean, 7590, 182),
    ],
)
def test_traffic_has_the_published_lengths(
    profile: Profile, measure: Any, prompt: float, output: float
) -> None:
    drawn = draw(profile, 1.0, 1e9, seed=2)
    questions = list(islice((one for each in drawn for one in each.questions), 20_000))
    assert measure([one.num_prompt for one in questions]) == pytest.approx(prompt, rel=0.07)
    assert measure([one.num_output for one in questions]) == pytest.approx(output, rel=0.07)
    if profile is LONG:
        seen = sum(length for one in questions for _, length in one.parts)
        whole = sum(one.num_prompt for one in questions)
        assert seen / whole == pytest.approx(0.5, abs=0.03)


def test_conversations_begin_in_bursts() -> None:
    starts = [one.starts_at for one in draw(CHAT, 2.0, 20_000.0, seed=4)]
    gaps = np.diff(starts)
    assert gaps.mean() == pytest.approx(0.5, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(CHAT.burstiness, rel=0.05)


def measured_row(workload: str, clients: int, **fields: float) -> dict[str, Any]:
    spreads = {
        name: {"median": value} if name == "output_tok_s" else {"runs": {"median": value}}
        for name, value in fields.items()
    }
    return {"kind": "row", "server": "s", "workload": workload, "clients": clients, **spreads}


def test_a_fit_finds_the_speed_that_was_measured() -> None:
    def closed_loop(prompt: int, output: int, clients: int) -> float:
        """Tokens a second of clients that always ask: time of all work, and of all steps."""
        own = SPEED.chunk_s(0, prompt) + SPEED.sampled * output + SPEED.token * output
        own += SPEED.read * output * (prompt + output / 2)
        return output / (own + SPEED.step * output / clients)

    rows = []
    for name, prompt in (("random-128-128", 128), ("shared-0", 1024)):
        first = SPEED.prompt_s(prompt) + SPEED.around
        following = SPEED.decode_s(1, prompt + 64)
        rows.append(measured_row(name, 1, ttft_ms=1000 * first, tpot_ms=1000 * following))
        for clients in (8, 32):
            rate = closed_loop(prompt, 128, clients)
            rows.append(measured_row(name, clients, output_tok_s=rate))
    assert -(-PREFILL // CHUNK) == 2
    rows.append(measured_row("prefill-512", 1, ttft_ms=1000 * (SPEED.prompt_s(512) + SPEED.around)))
    found = fit(rows, "s")
    for term in ("step", "token", "sampled", "read", "pair", "around"):
        assert getattr(found, term) == pytest.approx(getattr(SPEED, term), rel=0.02), term


def test_what_we_measured_is_fitted_within_a_tenth() -> None:
    lines = read_lines(MEASURED)
    errors = relative_errors(fit(lines, "llmplug int4"), lines, "llmplug int4")
    assert len(errors) > 6
    assert max(map(abs, errors)) < 0.1


def test_a_server_bears_what_the_arithmetic_says() -> None:
    """Saturated, without hits: as many answers a second as `find_capacity` says."""
    machine = load_machines()["cpu"]
    profile = replace(CODE, num_applications=1, instructions=0, think_s=0.0, message=200, answer=40)
    demand = find_demand(profile, 0.0)
    most = find_capacity(machine.speed, demand, machine.limits.max_sequences)
    env = simpy.Environment()
    replica = Replica(env, 0, machine.speed, replace(machine.limits, max_waiting=10**6))
    drawn = draw(profile, 1.0, 1e9, seed=6)
    questions = [one for each in islice(drawn, 600) for one in each.questions]
    for question in questions:
        replica.take(replace(question, parts=[]))
    env.run()
    assert len(questions) / env.now == pytest.approx(most.per_s, rel=0.12)
    assert isinstance(demand, Demand)


def test_affinity_finds_what_one_server_would_find() -> None:
    machine = load_machines()["cpu"]
    shares = {}
    for router, num_servers in (("random", 4), ("prefix affine", 4), ("random", 1)):
        row = run(machine, SHORT, router, num_servers=num_servers, load=0.6, seconds=300.0)
        shares[router, num_servers] = row["cached_share"]
    assert shares["prefix affine", 4] > 0.9 * shares["random", 1]
    assert shares["random", 4] < 0.8 * shares["random", 1]


@pytest.mark.parametrize("router", ROUTERS)
def test_routers_ask_nobody_who_is_closed(router: str) -> None:
    loads = np.array([math.inf, 5.0, math.inf, 3.0, 700.0])
    made = make_router(router, 1, 5, 10_000)
    questions = [one for each in draw(SHORT, 1.0, 100.0, 1) for one in each.questions]
    assert {made.choose(one, loads) for one in questions} <= {1, 3, 4}


RULES = ScalingRules({"sequences": 10.0}, min_servers=1, max_servers=20)


def test_scaling_follows_the_ratio() -> None:
    """The examples of Kubernetes' page: 200 for 100 doubles, 50 halves, within 0.1 nothing."""
    assert Autoscaler(RULES).decide(0.0, 4, {"sequences": 20.0}) == 8
    assert Autoscaler(RULES).decide(0.0, 4, {"sequences": 10.9}) == 4
    assert Autoscaler(RULES).decide(0.0, 4, {"sequences": 12.0}) == 5
    assert Autoscaler(RULES).decide(0.0, 20, {"sequences": 90.0}) == 20


def test_scaling_down_waits_and_goes_step_by_step() -> None:
    scaler = Autoscaler(RULES)
    assert scaler.decide(0.0, 8, {"sequences": 10.0}) == 8
    sizes = [8]
    for now in range(15, 1500, 15):
        sizes.append(scaler.decide(float(now), sizes[-1], {"sequences": 0.0}))
    assert sizes.index(7) * 15 > RULES.settle_s
    assert set(np.diff(sizes)) == {0, -1}
    assert sizes[-1] < 8


def test_a_fleet_grows_and_loses_nobody() -> None:
    rules = replace(RULES, targets={"sequences": 2.0}, start_s=5.0, settle_s=30.0, max_servers=6)
    router = make_router("least loaded", 1, 6, SPEED.cache_tokens)
    fleet = Fleet(SPEED, 1, router, rules=replace(rules, most_removed=(1, 15.0)))
    conversations = list(draw(SHORT, 2.0, 240.0, seed=9))
    report = fleet.run(conversations)
    sizes = [one.num_open for one in report.sights]
    assert max(sizes) > 2
    assert min(sizes[sizes.index(max(sizes)) :]) < max(sizes)
    assert len(report.outcomes) == sum(len(one.questions) for one in conversations)
    assert all(one.ended_at for one in report.outcomes)
