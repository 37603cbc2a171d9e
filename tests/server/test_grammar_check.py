"""Grammars are tried in a process of their own, under limits, before a request is admitted."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.processes import read_cpu_s
from llmplug.errors import EngineUnavailable, GrammarError, Overloaded
from llmplug.grammar import Json, Lark, Node, OneOf, Regex, Repeat, Text
from llmplug.server import grammar_check
from llmplug.server.grammar_check import GrammarChecker
from llmplug.server.grammar_process import TIME_S

TESTS = Path(__file__).parents[1]
PROGRAM = f"""
import runpy, sys
sys.path.insert(0, {str(TESTS)!r})
runpy.run_path({str(TESTS / "server" / "grammar_program.py")!r}, run_name="__main__")
"""
DEADLINE_S = 60.0
BOUND_S = TIME_S + 4  # of processor time, here and there, for a verdict


@pytest.fixture
async def checker() -> AsyncIterator[GrammarChecker]:
    checker = GrammarChecker((sys.executable, "-c", PROGRAM), b"{}")
    await checker.start()
    await asyncio.wait_for(checker.check(Text("ready"), "x"), DEADLINE_S)
    yield checker
    await checker.stop()


def pid_of(checker: GrammarChecker) -> int:
    assert checker._process is not None
    return checker._process.pid


async def ask(checker: GrammarChecker, node: Node, param: str) -> None:
    """Have a grammar tried, again if there was no time for it, as clients do."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await checker.check(node, param)
            except Overloaded:
                await asyncio.sleep(0)


def double(depth: int) -> Node:
    """Each definition holds the next one twice: 2 ** depth schemas when all are written out."""
    defs = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(depth)
    }
    return Json({"$ref": "#/$defs/d0", "$defs": {**defs, f"d{depth}": {"type": "object"}}})


def properties(count: int, prefix: str = "p") -> Node:
    return Json({"properties": {f"{prefix}{i}": {"type": "string"} for i in range(count)}})


def nest(depth: int) -> Node:
    schema: dict[str, object] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return Json(schema)


BOMBS: dict[str, Node] = {
    "a schema that is itself": Json({"$ref": "#"}),
    "schemas that refer to each other": Json(
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    ),
    "schemas that double": double(40),
    "10,000 properties": properties(10_000),
    "5,000 properties": properties(5_000),
    "deep schema": nest(100_000),
    "deep pattern": Regex("(" * 20_000 + "a" + ")" * 20_000),
    "nested counts": Regex("((((a{1,999}){1,999}){1,999}){1,999}){1,999}"),
    "nested pattern": Json({"type": "string", "pattern": "((((a|b)+c)*d)+e){99999}"}),
    "repeated tree": Repeat(OneOf([Regex("a+"), Regex("b+")]), 1_000_000, 1_000_000),
    "repeated rule": Lark("start: x{1000000}\nx: /a+/ | y{1000000}\ny: /b+/"),
    "long range": Json({"type": "string", "minLength": 10**6, "maxLength": 10**9}),
    "many items": Json({"type": "array", "minItems": 10**6, "items": {"type": "array"}}),
    "lookahead": Regex("(?=a)b"),
    "100,000 values": Json({"enum": [f"value {i}" for i in range(100_000)]}),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_refused_or_harmless_and_soon(checker: GrammarChecker, name: str) -> None:
    process = pid_of(checker)
    before_s = time.process_time() + read_cpu_s(process)
    checked = asyncio.wait_for(checker.check(BOMBS[name], "response_format"), DEADLINE_S)
    (error,) = await asyncio.gather(checked, return_exceptions=True)
    took_s = time.process_time() + read_cpu_s(process) - before_s
    assert took_s < BOUND_S, error
    is_held_up = isinstance(error, Overloaded) and took_s < TIME_S  # others had the processor
    assert error is None or isinstance(error, GrammarError) or is_held_up
    if isinstance(error, GrammarError):
        assert error.param == "response_format"
        assert "response_format" in str(error)
    await ask(checker, Regex("[a-z]+"), "x")
    assert pid_of(checker) == process, "the process itself is unharmed"


@pytest.mark.parametrize("name", ["a schema that is itself", "10,000 properties", "deep schema"])
async def test_what_cannot_be_followed_is_refused(checker: GrammarChecker, name: str) -> None:
    with pytest.raises(GrammarError):
        await ask(checker, BOMBS[name], "response_format")


async def test_a_good_grammar_does_not_wait_for_a_bad_one(checker: GrammarChecker) -> None:
    """One that waited would never be first; one that does not is, as soon as it gets the time."""
    deadline = time.monotonic() + DEADLINE_S
    for number in itertools.count(1):
        bad = asyncio.create_task(checker.check(properties(5000, f"p{number}_"), "x"))
        await asyncio.sleep(0)
        await ask(checker, Regex(f"[a-z]{{{number}}}"), "x")
        is_first = not bad.done()
        (error,) = await asyncio.gather(bad, return_exceptions=True)
        if is_first:
            break
        assert time.monotonic() < deadline, "no verdict came while another was waited for"
    is_refused = re.search(r"more than 1\.5 s|more than 512 MiB", str(error))
    assert is_refused or isinstance(error, Overloaded)  # it was held up, and may come again


async def test_verdicts_are_remembered_within_a_bound_of_bytes(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_check, "CACHE_BYTES", 10 * grammar_check.VERDICT_BYTES)
    for number in range(30):
        await checker.check(Text(f"choice {number}"), "x")
    assert 0 < len(checker._verdicts) <= 10
    process = pid_of(checker)
    os.kill(process, 9)
    await checker.check(Text("choice 29"), "x")
    assert len(checker._verdicts) <= 10


async def test_a_refusal_is_remembered_and_a_good_one_after_it_is_taken(
    checker: GrammarChecker,
) -> None:
    for _ in range(2):
        with pytest.raises(GrammarError, match="uniqueItems"):
            await checker.check(Json({"uniqueItems": True}), "tools[0]")
        await checker.check(Json({"uniqueItems": False}), "tools[0]")


async def test_a_process_that_dies_is_started_again(checker: GrammarChecker) -> None:
    process = pid_of(checker)
    os.kill(process, 9)
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            await asyncio.wait_for(checker.check(Text("again"), "x"), DEADLINE_S)
            break
        except EngineUnavailable:
            assert time.monotonic() < deadline
    assert pid_of(checker) != process


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks /proc for children")
async def test_a_stop_leaves_no_process(checker: GrammarChecker) -> None:
    process = pid_of(checker)
    trial = asyncio.create_task(checker.check(BOMBS["5,000 properties"], "x"))
    deadline = time.monotonic() + DEADLINE_S
    children: set[str] = set()
    while not trial.done() and not children:
        children = _children_of(process)
        await asyncio.sleep(0)
    await checker.stop()
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(trial, DEADLINE_S)
    while left := [pid for pid in (str(process), *children) if _is_running(pid)]:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.01)
    assert children


def _children_of(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _is_running(pid: str) -> bool:
    """Whether a process exists and is not merely waiting to be buried."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_a_grammar_too_long_is_refused_unseen(checker: GrammarChecker) -> None:
    with pytest.raises(GrammarError, match="bytes long"):
        await checker.check(Text("x" * grammar_check.MAX_GRAMMAR_BYTES), "structured_outputs")


async def test_rest_ends_the_process_and_a_grammar_starts_another(checker: GrammarChecker) -> None:
    pid = pid_of(checker)
    await checker.rest()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert checker._process is None
    await checker.check(Text("afterwards"), "x")
    assert pid_of(checker) != pid


async def test_it_does_not_rest_while_somebody_waits(checker: GrammarChecker) -> None:
    pid = pid_of(checker)
    asking = asyncio.create_task(checker.check(Text("meanwhile"), "x"))
    while not checker._pending and not asking.done():  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)
    await checker.rest()
    await asking
    assert pid_of(checker) == pid
