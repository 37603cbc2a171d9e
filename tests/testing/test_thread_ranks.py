"""Ranks in threads: all get the same, and nobody waits for one that has failed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_checkpoint, open_checkpoint

import llmplug_llama
from llmplug import BuildContext
from llmplug.testing.thread_ranks import Meeting, ThreadCollective, build_ranks


def test_many_calls_in_a_row_do_not_mix() -> None:
    meeting = Meeting(3)
    ends = [ThreadCollective(rank, 3, meeting) for rank in range(3)]

    def call(end: ThreadCollective) -> list[float]:
        found = []
        for i in range(200):
            sum_T = end.all_reduce(torch.full((2,), float(10**end.rank * i)))
            joined_T = end.all_gather(torch.full((1, end.rank), float(i)), (0, 1, 2))
            found += [*sum_T.tolist(), *joined_T[0].tolist()]
        return found

    with ThreadPoolExecutor(3) as pool:
        expected = [x for i in range(200) for x in (111.0 * i, 111.0 * i, *[float(i)] * 3)]
        assert list(pool.map(call, ends)) == [expected] * 3


def test_widths_that_were_not_said_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parts of \[2\], not \[3\]"):
        ThreadCollective(0, 1, Meeting(1)).all_gather(torch.zeros(1, 2), [3])


def test_a_rank_that_fails_ends_the_step_of_all(tmp_path: Path) -> None:
    """The others wait for it in a sum; what it says is what comes out."""
    checkpoint = open_checkpoint(make_checkpoint("llama", tmp_path))
    (spec, _) = llmplug_llama.llmplug_models()
    built = []

    def build(context: BuildContext) -> Any:
        built.append(model := spec.build(context))
        return model

    runner = build_ranks(replace(spec, build=build), checkpoint, 2)(1)

    def fail(*_: Any) -> None:
        raise LookupError("no page")

    built[1].forward = fail
    with pytest.raises(LookupError, match="no page"):
        runner.step({0: [1, 2, 3]})
