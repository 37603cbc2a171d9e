"""An attacker's row in a batch: numbers and ids that nobody means, which its neighbours never see.

An example (`Op.example_inputs`) has rows: packed tokens, sequences, or whole texts. `with_attacker`
gives one of them to an attacker, `find_other_outputs` says which rows of the result are not his.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# No number twice in a row, and no count that a row's width is a multiple of.
EXTREMES = (float("inf"), 3e38, float("nan"), -3e38, float("-inf"), 1e-40, -1.0)
# Whole numbers that the ops take, by argument. Places in memory (positions, slots, rows of a table
# of embeddings) are not among them: the engine makes them, and limits what a request can say.
_IDS = {
    "seeds_S": (-(2**63),),
    "positions_S": (2**63 - 1,),
    "top_k_S": (2**62,),
}
# Entries of lists of (row, token, count) and of (row, mask), beside those of the example.
_TOKENS = (-1, 2**31, 2**62, -(2**63))
_ROWS = (-(2**63), -1, 2**31, 2**62)


def make_extreme(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of extreme floats, like the one given."""
    return _fill_in_turn(tensor, EXTREMES)


def count_rows(example: Mapping[str, Any]) -> int:
    """Return how many tokens, sequences or texts an example has."""
    for key in ("lens", "num_tokens"):
        if key in example:
            value = example[key]
            return value if isinstance(value, int) else len(value)
    if "starts" in example:
        return len(example["starts"]) - 1
    return next(len(value) for name, value in example.items() if _is_by_row(name, value))


def with_attacker(example: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Give one row of an example to an attacker: extreme floats, and ids as `_IDS` has them."""
    if "lens" in example or "num_tokens" in example:
        return {**example, "attacker": row}
    starts = example.get("starts", range(count_rows(example) + 1))
    mine = slice(starts[row], starts[row + 1])
    changed = dict(example)
    for name, value in example.items():
        if not _is_by_row(name, value):
            continue
        changed[name] = value.clone()
        if value.is_floating_point():
            changed[name][mine] = make_extreme(value[mine])
        elif name in _IDS:
            changed[name][mine] = _fill_in_turn(value[mine], _IDS[name])
    return _with_wild_entries(changed, row)


def without_last_row(example: Mapping[str, Any]) -> dict[str, Any]:
    """Leave the last row out; what lists say of it then names a row that does not exist."""
    starts = list(example.get("starts", range(count_rows(example) + 1)))
    shorter = {
        name: value[: starts[-2]] if _is_by_row(name, value) else value
        for name, value in example.items()
    }
    return {**shorter, "starts": starts[:-1]} if "starts" in example else shorter


def find_other_outputs(example: Mapping[str, Any], row: int, num_outputs: int) -> torch.Tensor:
    """Return which rows of a result are not the attacker's, bool.

    Args:
        num_outputs: rows of the result: one a row of the example, or one a token.
    """
    starts = list(range(count_rows(example) + 1))
    if "lens" in example:
        new = torch.tensor([0, *(num_new for num_new, _ in example["lens"])])
        starts = new.cumsum(0).tolist()
    elif "starts" in example and num_outputs != count_rows(example):
        starts = list(example["starts"])
    is_other = torch.ones(num_outputs, dtype=torch.bool)
    is_other[starts[row] : starts[row + 1]] = False
    return is_other


def _fill_in_turn(like: torch.Tensor, numbers: tuple[float, ...]) -> torch.Tensor:
    turn = torch.tensor(numbers, device=like.device).to(like.dtype)
    return turn.repeat(-(-like.numel() // len(turn)))[: like.numel()].view(like.shape)


def _is_by_row(name: str, value: Any) -> bool:
    """Say whether an argument's first dimension is T or S."""
    return isinstance(value, torch.Tensor) and name.rpartition("_")[2].startswith(("T", "S"))


def _with_wild_entries(example: dict[str, Any], row: int) -> dict[str, Any]:
    """Add entries that name tokens and rows that do not exist, to the lists that may have such."""
    if "ids_E" in example:
        rows = (*(row for _ in _TOKENS), *_ROWS)
        tokens = (*_TOKENS, *(0 for _ in _ROWS))
        for name, values in (("rows_E", rows), ("ids_E", tokens), ("counts_E", (2**62,) * 8)):
            more = torch.tensor(values, device=example[name].device)
            example[name] = torch.cat((example[name], more))
    if "rows_R" in example:
        masks = example["allowed_RW"]
        more = torch.tensor(_ROWS, device=masks.device)
        example["rows_R"] = torch.cat((example["rows_R"], more))
        example["allowed_RW"] = torch.cat((masks, masks.new_zeros(len(_ROWS), masks.shape[1])))
    return example
