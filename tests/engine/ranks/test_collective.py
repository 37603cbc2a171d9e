"""What ranks sum and gather; here each is a thread, which makes no difference to what they open."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from llmplug.engine.ranks.collective import GroupCollective, open_store

T = TypeVar("T")
DEADLINE_S = 120.0


def on_ranks(folder: Path, num_ranks: int, act: Callable[[GroupCollective], T]) -> list[T]:
    """Let every rank do something; what each returns."""

    def run(rank: int) -> T:
        store = folder / "store"
        with torch.inference_mode():
            return act(
                GroupCollective(open_store(store, num_ranks), rank, num_ranks, torch.device("cpu"))
            )

    with ThreadPoolExecutor(num_ranks) as pool:
        return list(pool.map(run, range(num_ranks), timeout=DEADLINE_S))


def draw(rank: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(rank))


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_get_the_sum(tmp_path: Path, num_ranks: int, dtype: torch.dtype) -> None:
    found = on_ranks(
        tmp_path, num_ranks, lambda ranks: ranks.all_reduce(draw(ranks.rank, 5, 7).to(dtype))
    )
    exact = sum(draw(rank, 5, 7).to(dtype).double() for rank in range(num_ranks))
    tolerance = num_ranks * torch.finfo(dtype).eps  # a rounding for each number that is added
    for each in found:
        assert each.dtype == dtype
        assert torch.equal(each, found[0])
        torch.testing.assert_close(each.double(), exact, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_a_row_s_sum_does_not_depend_on_the_other_rows(tmp_path: Path, num_ranks: int) -> None:
    def act(ranks: GroupCollective) -> tuple[torch.Tensor, torch.Tensor]:
        rows = draw(ranks.rank, 129, 33)
        alone = torch.cat([ranks.all_reduce(row[None].clone()) for row in rows])
        return ranks.all_reduce(rows), alone

    for together, alone in on_ranks(tmp_path, num_ranks, act):
        assert torch.equal(together, alone)


def test_parts_of_several_widths_are_joined_by_rank(tmp_path: Path) -> None:
    widths = [3, 1, 2]
    found = on_ranks(
        tmp_path, 3, lambda ranks: ranks.all_gather(draw(ranks.rank, 4, widths[ranks.rank]), widths)
    )
    expected = torch.cat([draw(rank, 4, width) for rank, width in enumerate(widths)], -1)
    assert all(torch.equal(each, expected) for each in found)


def test_no_rows_are_no_trouble(tmp_path: Path) -> None:
    def act(ranks: GroupCollective) -> tuple[torch.Tensor, torch.Tensor]:
        return ranks.all_reduce(torch.empty(0, 4)), ranks.all_gather(torch.empty(0, 2), [2, 2])

    for summed, joined in on_ranks(tmp_path, 2, act):
        assert (summed.shape, joined.shape) == ((0, 4), (0, 4))


def test_what_rank_0_says_and_the_least_number_reach_all(tmp_path: Path) -> None:
    def act(ranks: GroupCollective) -> tuple[list[int], int]:
        said = ranks.broadcast(torch.tensor([ranks.rank, 7 * ranks.rank]))
        return said.tolist(), ranks.find_least(10 - ranks.rank)

    assert on_ranks(tmp_path, 3, act) == [([0, 0], 8)] * 3
