"""The questions of docs/scale.md, each a function that yields rows: flat, ready to be written.

Machines: `cpu` is fitted to what this project measured; `gpu` is assumed, and no measurement of
ours stands behind it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import percentile
from benchmarks.results import pick, read_lines
from benchmarks.scale.capacity import TOKEN_S, Demand, find_capacity, servers_for
from benchmarks.scale.fleet import Fleet
from benchmarks.scale.replica import Limits
from benchmarks.scale.routing import CAREFUL, ROUTERS, make_router
from benchmarks.scale.scaling import ScalingRules
from benchmarks.scale.speed import Speed, assume_gpu, fit
from benchmarks.scale.traffic import PROFILES, Conversation, Profile, draw

if TYPE_CHECKING:
    from benchmarks.scale.fleet import Outcome

Row = dict[str, Any]

RESULTS = Path(__file__).parents[1] / "results"
MEASURED = (
    RESULTS / "cpu-epyc-2-cores-ab28a8c-llama-cpp.jsonl",
    RESULTS / "cpu-epyc-2-cores-221f166-shared.jsonl",
)
CPU_CACHE_TOKENS = 90_000  # 2 GiB of 23,040 bytes a token (the `cost` of the same files)
# A model of 8e9 parameters in 16 bits on a device of 3.35 TB/s, 989 TFLOP/s and 80 GB (an H100 SXM,
# by its data sheet), of which 0.6 is reached: a guess, to be replaced by a measurement.
GPU = assume_gpu(
    weight_bytes=16e9,
    params=8e9,
    kv_bytes_per_token=131_072,
    bandwidth=3.35e12,
    flops=989e12,
    memory_bytes=80e9,
    efficiency=0.6,
)
GPU_LIMITS = Limits(max_sequences=256, max_batch_tokens=2048, prefill_chunk=1024)
SAMPLE = 4000  # questions that means are taken of
SEED = 1
WARM_UP = 0.4
HOUR_S = 3600.0
CALM_LOAD = 0.6


@dataclass(frozen=True, slots=True)
class Machine:
    """What one server runs on."""

    name: str
    speed: Speed
    limits: Limits


def load_machines() -> dict[str, Machine]:
    """Return the machines that are asked about."""
    measured = fit(read_lines(MEASURED), "llmplug int4")
    cpu = replace(measured, cache_tokens=CPU_CACHE_TOKENS)
    return {"cpu": Machine("cpu", cpu, Limits()), "gpu": Machine("gpu", GPU, GPU_LIMITS)}


def find_demand(profile: Profile, cached_share: float) -> Demand:
    """Return the means of what a profile's users ask."""
    drawn = draw(profile, 1.0, 1e9, SEED)
    questions = islice((one for each in drawn for one in each.questions), SAMPLE)
    return Demand.of(list(questions), cached_share)


def turns_of(profile: Profile) -> float:
    """Return how many questions a conversation really has, on average."""
    return statistics.mean(
        len(one.questions) for one in islice(draw(profile, 1.0, 1e9, SEED), SAMPLE // 2)
    )


def describe(outcomes: Sequence[Outcome], seconds: float) -> Row:
    """Make numbers of what became of requests that were asked within so many seconds."""
    answered = [one for one in outcomes if one.ended_at is not None]
    first_s = [(one.first_at or 0.0) - one.asked_at for one in answered]
    whole_s = [(one.ended_at or 0.0) - one.asked_at for one in answered]
    prompt = sum(one.question.num_prompt for one in answered)
    return {
        "asked": len(outcomes),
        "asked_per_s": round(len(outcomes) / seconds, 3),
        "answered": len(answered),
        "given_up": len(outcomes) - len(answered),
        "refusals": sum(one.num_refused for one in outcomes),
        "ttft_p50_s": round(percentile(first_s, 50), 4),
        "ttft_p99_s": round(percentile(first_s, 99), 4),
        "whole_p50_s": round(percentile(whole_s, 50), 4),
        "cached_share": round(sum(one.num_cached for one in answered) / prompt, 4),
    }


def run(
    machine: Machine,
    profile: Profile,
    router: str,
    *,
    num_servers: int,
    load: float,
    seconds: float,
    stale_s: float = 0.0,
    limits: Limits | None = None,
    seed: int = SEED,
) -> Row:
    """Run servers at a load of so many times what they could do without a cache hit.

    What is counted was asked after WARM_UP of the time that conversations begin in, and before its
    end.
    """
    per_s = conversations_per_s(machine, profile, load) * num_servers
    fleet = Fleet(
        machine.speed,
        num_servers,
        make_router(router, seed, num_servers, machine.speed.cache_tokens),
        limits=limits or machine.limits,
        stale_s=stale_s,
    )
    began = WARM_UP * seconds
    busy = fleet.watch_busy(began, seconds)
    report = fleet.run(draw(profile, per_s, seconds, seed))
    counted = [one for one in report.outcomes if began <= one.asked_at < seconds]
    return {
        "machine": machine.name,
        "router": router,
        "servers": num_servers,
        "load": load,
        **describe(counted, seconds - began),
        "busy": round(busy[0], 3),
    }


def study_capacity() -> Iterator[Row]:
    """How many servers for how many users, by arithmetic."""
    for machine in load_machines().values():
        for name, profile in PROFILES.items():
            for cached_share in (0.0, 0.5, 0.8):
                demand = find_demand(profile, cached_share)
                found = find_capacity(machine.speed, demand, machine.limits.max_sequences, TOKEN_S)
                row: Row = {
                    "machine": machine.name,
                    "profile": name,
                    "cached_share": cached_share,
                    "sequences": found.sequences,
                    "token_ms": round(1000 * found.token_s, 1),
                    "requests_per_s": round(found.per_s, 3),
                    "output_tokens_per_s": round(found.per_s * demand.output, 1),
                }
                for users in (10, 100, 1000, 10_000, 100_000):
                    row[f"users_{users}"] = servers_for(users, profile.think_s, found, demand)
                yield row


def study_http() -> Iterator[Row]:
    """How many tokens a second the HTTP process writes: measured, there is one for each server."""
    lines = read_lines(MEASURED)
    (cores,) = {line["machine"]["cores"] for line in pick(lines, "setup")}
    for server in ("llmplug int4", "llmplug w4a8"):
        for line in pick(lines, "row", server=server, workload="random-128-128"):
            rate = line["output_tok_s"]["median"]
            share = line["http_share"]["median"]
            yield {
                "machine": "cpu",
                "server": server,
                "clients": line["clients"],
                "tokens_per_s": rate,
                "http_share": share,
                "tokens_per_core_s": round(rate / (share * cores)),
            }


def study_routing() -> Iterator[Row]:
    """Who should be asked, of eight servers: what prefixes and balance are worth."""
    for name, seconds in (("cpu", 3000.0), ("gpu", 300.0)):
        machine = load_machines()[name]
        for load in (0.5, 0.8, 1.1):
            for router in ROUTERS:
                yield run(
                    machine, PROFILES["chat"], router, num_servers=8, load=load, seconds=seconds
                )


def study_admission() -> Iterator[Row]:
    """More than servers can do: what bounds on who runs and who waits are worth."""
    machine = load_machines()["cpu"]
    for max_sequences, max_waiting in ((64, 256), (8, 256), (8, 32), (8, 8)):
        limits = replace(machine.limits, max_sequences=max_sequences, max_waiting=max_waiting)
        for load in (1.0, 2.0, 4.0):
            row = run(
                machine,
                PROFILES["chat"],
                "prefix affine",
                num_servers=4,
                load=load,
                seconds=2000.0,
                limits=limits,
            )
            yield {"bounds": f"{max_sequences} run, {max_waiting} wait", **row}


def study_size() -> Iterator[Row]:
    """From one server to a thousand, at the same load of each."""
    machine = load_machines()["cpu"]
    for num_servers in (1, 10, 100, 1000):
        for router in ROUTERS:
            seconds = max(300.0, 6000.0 / num_servers)
            yield run(
                machine,
                PROFILES["chat"],
                router,
                num_servers=num_servers,
                load=0.9,
                seconds=seconds,
            )


def study_stale() -> Iterator[Row]:
    """What a router does that hears of loads late, as several routers beside each other do."""
    machine = load_machines()["cpu"]
    for stale_s in (0.0, 1.0, 5.0, 15.0):
        for router in ("two choices", "least loaded", "prefix affine", CAREFUL):
            row = run(
                machine,
                PROFILES["chat"],
                router,
                num_servers=40,
                load=0.9,
                seconds=600.0,
                stale_s=stale_s,
            )
            yield {"stale_s": stale_s, **row}


def study_autoscaling() -> Iterator[Row]:
    """An hour of calm, an hour with eight times as many users, an hour of calm."""
    machine = load_machines()["cpu"]
    calm = conversations_per_s(machine, PROFILES["chat"], CALM_LOAD)
    for start_s in (None, 10.0, 60.0, 300.0):
        rules = None
        if start_s is not None:
            targets = {"sequences": 4.0, "tokens_per_s": 250.0}
            rules = ScalingRules(targets, min_servers=1, max_servers=20, start_s=start_s)
        router = make_router("prefix affine", SEED, 20, machine.speed.cache_tokens)
        num_servers = 1 if rules else 10
        fleet = Fleet(machine.speed, num_servers, router, limits=machine.limits, rules=rules)
        report = fleet.run(_draw_day(PROFILES["chat"], calm))
        yield {
            "machine": machine.name,
            "start_s": start_s,
            "most": max([one.num_open for one in report.sights], default=num_servers),
            **describe(report.outcomes, 3 * HOUR_S),
            "server_hours": round(report.server_s / HOUR_S, 2),
            "sights": [[one.at, one.num_open, one.num_jobs] for one in report.sights[::4]],
            "waits": [[at, percentile(waits, 95)] for at, waits in _by_minutes(report.outcomes)],
        }


STUDIES: dict[str, Callable[[], Iterator[Row]]] = {
    "capacity": study_capacity,
    "http": study_http,
    "routing": study_routing,
    "admission": study_admission,
    "size": study_size,
    "stale": study_stale,
    "autoscaling": study_autoscaling,
}


def conversations_per_s(machine: Machine, profile: Profile, load: float) -> float:
    """Return how many conversations begin at a server, so that it has this load without hits."""
    demand = find_demand(profile, 0.0)
    most = find_capacity(machine.speed, demand, machine.limits.max_sequences)
    return load * most.per_s / turns_of(profile)


def _draw_day(profile: Profile, calm: float) -> Iterator[Conversation]:
    for number, factor in enumerate((1, 8, 1)):
        for one in draw(profile, calm * factor, HOUR_S, SEED + number, number * 10_000_000):
            one.starts_at += HOUR_S * number
            yield one


def _by_minutes(outcomes: Sequence[Outcome]) -> Iterator[tuple[float, list[float]]]:
    """Return the seconds to the first token of those who asked in each two minutes."""
    found: dict[float, list[float]] = {}
    for one in outcomes:
        if one.first_at is not None:
            found.setdefault(one.asked_at // 120 * 120, []).append(one.first_at - one.asked_at)
    yield from sorted(found.items())
