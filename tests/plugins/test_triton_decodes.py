"""Decodes in Triton: who attends which chunk, and who joins the parts, changes no bit.

The interpreter runs one program after the other. So it shows what an order of arrival changes, when
it is given another list or another number of programs; what programs that run at once see of each
other it cannot show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from llmplug.ops import REFERENCES, AttentionBatch, KVCache
from llmplug.ops.attention_examples import (
    apply_attention,
    make_attention_batch,
    make_attention_example,
)
from llmplug.testing import GuardedMemory
from llmplug_triton import llmplug_kernels
from tests.ops.kernel_checks import (
    check_equals_reference,
    check_rows_beside_an_attacker,
    poisoned_memory,  # noqa: F401 - a fixture
)
from tests.plugins.triton_interpreter import interpreter_that_rounds  # noqa: F401 - a fixture

pytest.importorskip("triton", reason="triton is not installed")
(SPEC,) = [spec for spec in llmplug_kernels() if spec.op == "attention"]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# numpy, which stands in for the GPU, warns of the inf and NaN that some tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CHUNK = 16
# Parts in two rounds, a whole chunk, one token more, one chunk of one token, padding.
LENS = [(1, n) for n in (260, 16, 17, 1, 0, 40)]


class Programs:
    """A tuning of short chunks, and of so many programs where one multiprocessor stands for all."""

    def __init__(self, count: int) -> None:
        self._count = count

    def find_sizes(self, tunable: str, dtype: torch.dtype, shape: Any, default: Any) -> Any:
        own = {"CHUNK": CHUNK, "PROGRAMS": self._count}
        return {**default, **own} if tunable == "decode" else default


def describe(lens, heads=(2, 1, 16), **settings) -> dict[str, Any]:
    example = make_attention_example(lens, heads=heads, **settings)
    return {**example, "device": DEVICE, "dtype": torch.float32}


@dataclass
class Step:
    """What attention was last asked, so that it can be asked again."""

    kernel: Any
    call: Callable[[AttentionBatch], torch.Tensor] = field(init=False)
    batch: AttentionBatch = field(init=False)

    def allocate(self, *sizes: int, **how: Any) -> KVCache:
        return self.kernel.allocate(*sizes, **how)

    def store(self, *tensors: Any) -> None:
        self.kernel.store(*tensors)

    def attend(
        self, q_TNH: torch.Tensor, cache: KVCache, batch: AttentionBatch, **settings: Any
    ) -> torch.Tensor:
        self.call = lambda other: self.kernel.attend(q_TNH, cache, other, **settings)
        self.batch = batch
        return self.call(batch)

    @property
    def work(self) -> Any:
        (plan,) = self.batch.plans.values()
        return plan.work


SCORED = {"window": 30, "soft_cap": 3.0, "has_sinks": True}


@pytest.mark.parametrize("settings", [{}, SCORED], ids=["plain", "scored"])
def test_any_number_of_programs_gives_the_same_bits(settings: dict[str, Any]) -> None:
    example = describe(LENS, **settings)
    (one, *others) = (apply_attention(SPEC.load(Programs(n)), example) for n in (1, 2, 3, 7, 999))
    for other in others:
        assert torch.equal(one, other)
    assert not one[4].any()  # padding


def test_any_order_of_arrival_gives_the_same_bits() -> None:
    """The same step again and again, as its layers do, each with the list in another order."""
    step = Step(SPEC.load(Programs(3)))
    before = apply_attention(step, describe(LENS, has_sinks=True))
    work = step.work
    assert work.num_listed_1.tolist() == [17 + 1 + 2 + 1 + 1 + 3]
    listed = work.chunks_W3[: int(work.num_listed_1)]
    generator = torch.Generator().manual_seed(5)
    orders = [torch.randperm(len(listed), generator=generator) for _ in range(3)]
    for order in (*orders, torch.arange(len(listed)).flip(0)):
        listed.copy_(listed[order.to(DEVICE)])
        assert not work.num_done_SK.any()  # as the launch before has left it
        assert torch.equal(step.call(step.batch), before)
    assert not work.num_done_SK.any()


def test_a_row_of_a_decode_is_the_same_alone() -> None:
    """Its chunks are others' neighbours on the list, and of another bound."""
    kernel = SPEC.load(Programs(3))
    together = apply_attention(kernel, describe(LENS))
    for num_rows in (1, 4):
        alone = apply_attention(kernel, describe(LENS[:num_rows]))
        assert torch.equal(alone, together[:num_rows])


def test_an_attacker_is_not_joined_with_others() -> None:
    examples = [describe([(1, 40), (1, 33)]), describe([(1, 40), (1, 20)], (4, 2, 16), **SCORED)]
    check_rows_beside_an_attacker(REFERENCES["attention"], SPEC.load(Programs(2)), examples)


@pytest.mark.parametrize("heads", [(1, 1, 64), (6, 2, 96), (9, 3, 128), (16, 1, 256), (14, 2, 8)])
def test_parts_of_any_heads_equal_reference(heads: tuple[int, int, int]) -> None:
    lens = [(1, n) for n in (33, 70, 15)]
    for cache_dtype in (None, torch.float8_e4m3fn):
        example = describe(lens, heads, cache_dtype=cache_dtype)
        check_equals_reference(
            REFERENCES["attention"], SPEC.load(Programs(2)), [example], "float32"
        )


def test_a_sink_is_in_the_first_part_alone() -> None:
    examples = [
        describe([(1, 50), (1, 9)], (4, 2, 16), **{**SCORED, "window": w}) for w in (30, 99)
    ]
    check_equals_reference(REFERENCES["attention"], SPEC.load(Programs(2)), examples, "float32")


def test_parts_stay_within_their_tensors() -> None:
    example = describe([(1, 37), (1, 1), (1, 0), (1, 16)], (3, 1, 20), page_size=5)
    kernel = SPEC.load(Programs(2))
    memory = GuardedMemory()
    with memory.fresh_tensors():
        got = apply_attention(kernel, example)
    memory.check()
    assert torch.equal(got, apply_attention(kernel, example))
    assert not got.isnan().any()


# --- the list -----------------------------------------------------------------------------------
def list_by_hand(lens: list[int], window: int | None) -> Iterator[tuple[bool, int, int, int]]:
    """Chunks in the order of sequences: whether one is the shorter last; the entry of the list."""
    for sequence, length in enumerate(lens):
        seen = min(length, window or length)
        for chunk in range(max(-(-seen // CHUNK), 1)):
            yield seen - chunk * CHUNK < CHUNK, sequence, chunk, length


@pytest.mark.parametrize("window", [None, 40])
def test_list_has_every_chunk_once_and_whole_ones_first(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmplug_triton import attention_work

    monkeypatch.setattr(attention_work, "_ROWS", 4)  # lengths, and chunks, are read in rounds
    lens = [16, 0, 33, 7, 2100, 1, 15, 17, 0, 32, 31]
    batch, _, _, _ = make_attention_batch(describe([(1, n) for n in lens]))
    bounds = (4096,) * len(lens)
    work = attention_work.list_work(replace(batch, cached_lens=bounds), 3, CHUNK, window)
    expected = sorted(list_by_hand(lens, window), key=lambda entry: entry[0])
    assert work.chunks_W3[: int(work.num_listed_1)].tolist() == [list(e[1:]) for e in expected]
    assert work.most_chunks == (4096 // CHUNK if window is None else 3)
    assert work.num_done_SK.tolist() == [[0] * 3] * len(lens)


def test_what_is_recorded_for_bounds_serves_other_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launches of one step, repeated as they were: all that changes is in its tensors."""
    from llmplug_triton.attention_decode import _decode_kernel

    tape = []
    get_launch = type(_decode_kernel).__getitem__

    def record(kernel: Any, grid: Any) -> Any:
        def launch(*tensors: Any, **settings: Any) -> None:
            tape.append((kernel, grid, tensors, settings))
            get_launch(kernel, grid)(*tensors, **settings)

        return launch

    step = Step(SPEC.load(Programs(2)))
    apply_attention(step, describe([(1, 90)] * 4, (4, 2, 16), has_sinks=True))
    bound = replace(step.batch, cached_lens=(512,) * 4, plans={})
    monkeypatch.setattr(type(_decode_kernel), "__getitem__", record)
    out_TNH = step.call(bound)
    monkeypatch.undo()
    assert len(tape) == 2  # the list, and all decodes
    for lens in ((1, 90, 0, 16), (0, 1, 33, 0)):
        bound.cached_lens_S.copy_(torch.tensor(lens))
        for kernel, grid, tensors, settings in tape:
            get_launch(kernel, grid)(*tensors, **settings)
        alone = replace(bound, cached_lens=lens, plans={})
        assert torch.equal(out_TNH, step.call(alone))
