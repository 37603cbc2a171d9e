"""Tries the candidates of a kernel's free parameters: each is checked, then timed.

A candidate that differs from the reference, or cannot be compiled or launched, is noted with the
reason and passed over. Nothing of this runs while requests do.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from llmplug.errors import KernelInputError
from llmplug.ops.table import KernelTable, Op, make_reference_table
from llmplug.ops.tuning import Shape
from llmplug.ops.tuning_table import TuningRow, make_key

if TYPE_CHECKING:
    from llmplug.ops.stopwatch import Stopwatch
    from llmplug.ops.tuning import ModelSizes, Sizes, Tunable, Workload
    from llmplug.ops.tuning_table import RowKey
    from llmplug.specs import KernelSpec

_log = logging.getLogger(__name__)
_OTHER_BITS = "it differs in bits from the default sizes"

Asked = tuple[torch.dtype, Shape]  # what a launcher wants sizes for
Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]


@dataclass(slots=True)
class _Trial:
    """A `Tuning` that hands out the sizes under test, and keeps what was asked for."""

    tunable: str
    sizes: Sizes | None = None  # None: the defaults
    only: Asked | None = None  # for what they are under test; None: for all
    asked: dict[Asked, Sizes] = field(default_factory=dict)  # -> default

    def find_sizes(self, tunable: str, dtype: torch.dtype, shape: Shape, default: Sizes) -> Sizes:
        if tunable != self.tunable:
            return default
        self.asked[dtype, shape] = default
        is_under_test = self.only in {None, (dtype, shape)}
        return self.sizes if self.sizes is not None and is_under_test else default


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedKernel:
    """A kernel whose parameters are searched.

    Attributes:
        name: `op/kernel`.
        load: tuning -> the kernel; of a composed op, the table that holds it and its parts.
        references: the table of references.
    """

    name: str
    op: Op
    load: Callable[[Any], Any]
    references: KernelTable

    @property
    def reference(self) -> Any:
        """What it is compared with: of a composed op the whole table."""
        return self.references if self.op.compose is not None else self.op.reference


def take_kernel(
    spec: KernelSpec, specs: Sequence[KernelSpec], references: Mapping[str, Op]
) -> TunedKernel:
    """Make a kernel ready for its search.

    Args:
        specs: all kernels, of which a fused one may need some.
        references: the ops, by name.
    """
    table = make_reference_table(references)
    op = references[spec.op]

    def load(tuning: Any) -> Any:
        kernel = spec.load(tuning)
        if op.compose is None:
            return kernel
        mine = {each.op: each for each in specs if each.name == spec.name}
        kernels = {name: getattr(table, name) for name in references}
        parts = {name: mine[name].load() for name in spec.needs}
        return KernelTable({**kernels, **parts, spec.op: kernel})

    return TunedKernel(name=f"{spec.op}/{spec.name}", op=op, load=load, references=table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Where and what is searched.

    Attributes:
        device_name: as `name_device` returns it.
        done: keys that have a row already.
    """

    sizes: ModelSizes
    device: torch.device
    device_name: str
    dtype: torch.dtype
    stopwatch: Stopwatch
    done: frozenset[RowKey] = frozenset()

    def find_rows(self, kernel: TunedKernel, tunable: Tunable) -> Iterator[TuningRow]:
        """Yield a row for each shape that the workloads ask for and that has none yet."""
        groups = self._group(kernel, tunable)
        open_groups = {
            asked: workloads
            for asked, workloads in groups.items()
            if make_key(kernel.name, tunable, self.device_name, *asked) not in self.done
        }
        if not open_groups:
            return
        good, bad = self._check(kernel, tunable)
        for asked, workloads in open_groups.items():
            sizes, us, default_us, unfit = self._choose(kernel, tunable, asked, workloads, good)
            yield TuningRow(
                key=make_key(kernel.name, tunable, self.device_name, *asked),
                sizes=sizes,
                us=us,
                default_us=default_us,
                gbytes_s=_mean([work.num_bytes for work in workloads]) / us / 1e3,
                tflops=_mean([work.num_flops for work in workloads]) / us / 1e6,
                passed_over=(*bad, *unfit),
            )

    def _group(self, kernel: TunedKernel, tunable: Tunable) -> dict[Asked, list[Workload]]:
        """Group the workloads by what the launcher asks with."""
        groups: dict[Asked, list[Workload]] = {}
        for workload in tunable.workloads(self.sizes, self.device, self.dtype):
            trial = _Trial(tunable.name)
            try:
                workload.prepare(kernel.load(trial))()
            except Exception as error:  # noqa: BLE001 - such as a lack of memory; it is told
                _refuse_lost_device(self.device, {})
                _log.warning("%s: a workload is left out: %s", kernel.name, _shorten(error))
                continue
            for asked in trial.asked:
                groups.setdefault(asked, []).append(workload)
        return groups

    def _check(
        self, kernel: TunedKernel, tunable: Tunable
    ) -> tuple[list[Sizes], list[tuple[Sizes, str]]]:
        """Return the candidates that compute what the reference does, and why others do not."""
        good, bad = [], []
        for sizes in tunable.candidates:
            try:
                pairs = self._find_outputs(kernel, tunable, sizes)
            except Exception as error:  # noqa: BLE001 - a compiler may raise anything; it is told
                _refuse_lost_device(self.device, sizes)
                bad.append((sizes, _shorten(error)))
                continue
            reason = self._find_difference(kernel, pairs)
            if reason is None:
                good.append(sizes)
            else:
                bad.append((sizes, reason))
        return good, bad

    def _find_outputs(self, kernel: TunedKernel, tunable: Tunable, sizes: Sizes) -> Pairs:
        """Run all examples with these sizes: pairs (got, expected)."""
        loaded = kernel.load(_Trial(tunable.name, sizes))
        with _poisoned_memory():
            if tunable.compare is not None:
                return tunable.compare(loaded, self.device, self.dtype)
            pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
            for example in kernel.op.example_inputs(self.device, self.dtype):
                pairs += compare_outputs(kernel.op, loaded, kernel.reference, example)
            return pairs

    def _find_difference(self, kernel: TunedKernel, pairs: Pairs) -> str | None:
        rtol, atol = kernel.op.tolerances[str(self.dtype).removeprefix("torch.")]
        for got, expected in pairs:
            try:
                torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
            except AssertionError as error:
                return f"it differs from the reference: {_shorten(error)}"
        return None

    def _choose(
        self,
        kernel: TunedKernel,
        tunable: Tunable,
        asked: Asked,
        workloads: Sequence[Workload],
        good: Sequence[Sizes],
    ) -> tuple[Sizes, float, float, list[tuple[Sizes, str]]]:
        """Time the candidates, and take the fastest; the default wins a draw.

        Returns:
            (sizes, their microseconds, those of the default, what does not work and why).
        """
        usual = _Trial(tunable.name)
        default_us, outputs = self._time(kernel, usual, workloads)
        best, best_us = usual.asked[asked], default_us
        bad = []
        for sizes in good:
            try:
                us, got = self._time(kernel, _Trial(tunable.name, sizes, asked), workloads)
            except Exception as error:  # noqa: BLE001 - a large shape may not fit; it is told
                _refuse_lost_device(self.device, sizes)
                bad.append((sizes, _shorten(error)))
                continue
            if tunable.is_exact and not all(map(_is_equal, got, outputs)):
                bad.append((sizes, _OTHER_BITS))
            elif us < best_us:
                best, best_us = sizes, us
        return best, best_us, default_us, bad

    def _time(
        self, kernel: TunedKernel, trial: _Trial, workloads: Sequence[Workload]
    ) -> tuple[float, list[object]]:
        """Return the geometric mean of the workloads' microseconds, and what they return."""
        loaded = kernel.load(trial)
        seconds, outputs = [], []
        for workload in workloads:
            call = workload.prepare(loaded)
            outputs.append(call())
            seconds.append(self.stopwatch.measure_s(call))
        return _mean(seconds) * 1e6, outputs


def _mean(values: Sequence[float]) -> float:
    """Return the geometric mean, so that long calls do not outvote short ones; 0 if one is 0."""
    return math.prod(values) ** (1 / len(values))


def compare_outputs(op: Op, kernel: Any, reference: Any, example: Mapping[str, Any]) -> Pairs:
    """Call kernel and reference with an example: pairs (got, expected)."""
    if op.compare is not None:
        return op.compare(kernel, reference, example)
    got, expected = (each(**_copy(example)) for each in (kernel, reference))
    if isinstance(got, torch.Tensor):
        return [(got, expected)]
    return list(zip(got, expected, strict=True))


def _is_equal(got: Any, usual: Any) -> bool:
    """Say whether two outputs have the same bits, NaN included."""
    if isinstance(got, torch.Tensor):
        return torch.equal(got.view(torch.uint8), usual.view(torch.uint8))
    return all(map(_is_equal, got, usual))


def _copy(example: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in example.items()}


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """Fill fresh memory with NaN, so that an output that is never written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _shorten(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _refuse_lost_device(device: torch.device, sizes: Sizes) -> None:
    """Raise what the device says if nothing runs on it any more."""
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except RuntimeError as error:
            raise KernelInputError(
                f"the GPU was lost with {dict(sizes) or 'the default sizes'}: {error}"
            ) from error
