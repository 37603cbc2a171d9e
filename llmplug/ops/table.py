"""The kernel table: for each op the best kernel that runs here, else the torch reference."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmplug.ops.tuning_table import TuningTable
    from llmplug.specs import KernelSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One op: its reference and how a kernel is compared with it.

    Attributes:
        name: of the op and of the file.
        reference: the torch implementation; a function, or an object with methods. None if it is
            composed of other ops.
        compose: table -> an implementation in terms of the table's other ops, for ops that are
            several others in a row: what serves them where no kernel fuses them.
        tolerances: dtype name -> (rtol, atol) that a kernel must keep, reasons beside them.
        example_inputs: (device, dtype) -> calls to compare, odd sizes and an empty batch included.
        scaled_inputs: of an op that reads or fills caches: (device, dtype) -> calls with scales of
            the cache, for kernels that support them.
        compare: (kernel, reference, example) -> pairs (got, expected) for ops that are not a
            plain function of tensors; None: call both with the example's arguments. Of a composed
            op, two tables instead of kernel and reference.
    """

    name: str
    tolerances: Mapping[str, tuple[float, float]]
    example_inputs: Callable[[Any, Any], Sequence[Mapping[str, Any]]]
    scaled_inputs: Callable[[Any, Any], Sequence[Mapping[str, Any]]] | None = None
    reference: Any = None
    compose: Callable[[KernelTable], Any] | None = None
    compare: Callable[[Any, Any, Mapping[str, Any]], Sequence[tuple[Any, Any]]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelChoice:
    """Which implementation serves an op, and why the others do not; for the start-up report."""

    op: str
    kernel: str  # the kernel's name, or "reference", or "composed" of the other ops
    plugin: str | None = None  # who brought it
    refused: tuple[tuple[str, str], ...] = ()  # (kernel name, reason)
    spare: tuple[tuple[str, str], ...] = ()  # (kernel name, plugin): next, should it not load


@dataclass(frozen=True, slots=True)
class KernelTable:
    """The ops as attributes: `ops.rms_norm(...)`, `ops.linear(...)`, `ops.attention.attend(...)`.

    Filled once, at start; a model holds it and asks nothing else.
    """

    _kernels: Mapping[str, Any]
    choices: tuple[KernelChoice, ...] = field(default=())

    def __getattr__(self, name: str) -> Any:
        try:
            return self._kernels[name]
        except KeyError:
            known = ", ".join(sorted(self._kernels))
            raise AttributeError(f"no op named {name!r}; known ops: {known}") from None

    def replace(self, kernels: Mapping[str, Any], choices: Sequence[KernelChoice]) -> KernelTable:
        """Return a table with other implementations of some ops."""
        return KernelTable({**self._kernels, **kernels}, tuple(choices))


def make_reference_table(references: Mapping[str, Op]) -> KernelTable:
    """Fill a table with references alone."""
    kernels: dict[str, Any] = {}
    table = KernelTable(kernels)
    for op in references.values():
        kernels[op.name] = _make_fallback(op, table)
    return table


def choose_kernels(
    references: Mapping[str, Op],
    specs: Sequence[tuple[KernelSpec, str]],
    device: str,
    dtype: str,
) -> tuple[KernelChoice, ...]:
    """Choose a kernel for every op, without loading one.

    Args:
        references: the ops of `llmplug.ops`, by name; composed ones last.
        specs: (kernel, name of the plugin that brought it).
        device: device type, such as `cpu`.
        dtype: dtype name, such as `float32`.
    """
    choices = []
    chosen_names: dict[str, str] = {}
    for op in references:
        offered = [(spec, owner) for spec, owner in specs if spec.op == op]
        offered.sort(key=lambda pair: (-pair[0].priority, pair[0].name))
        refused, spare = [], []
        chosen: tuple[str, str] | None = None
        for spec, owner in offered:
            reason = spec.supports(device, dtype) or _find_missing_part(spec, chosen_names)
            if reason is not None:
                refused.append((spec.name, reason))
            elif chosen is None:
                chosen = (spec.name, owner)
            else:
                refused.append((spec.name, f"{chosen[0]} has a higher priority"))
                spare.append((spec.name, owner))
        name, plugin = chosen or (_fallback_name(references[op]), None)
        chosen_names[op] = name
        choices.append(
            KernelChoice(
                op=op, kernel=name, plugin=plugin, refused=tuple(refused), spare=tuple(spare)
            )
        )
    return tuple(choices)


def load_kernels(
    references: Mapping[str, Op],
    specs: Sequence[tuple[KernelSpec, str]],
    choices: Sequence[KernelChoice],
    tuning: TuningTable | None = None,
) -> KernelTable:
    """Load what was chosen into a table.

    Args:
        tuning: the best sizes of kernels that have any; None: their defaults.

    A kernel that cannot be loaded (a compiler that fails, say) is warned of, and the next best one
    takes its place, in the end the reference: the table's `choices` say what runs.
    """
    by_name = {(spec.op, spec.name): spec for spec, _ in specs}
    kernels: dict[str, Any] = {}
    loaded: dict[str, KernelChoice] = {}
    parts = KernelTable(kernels)  # what composed ops call; full when the last op is loaded
    for choice in choices:
        names = {op: final.kernel for op, final in loaded.items()}
        kernel, final = _load_first(references[choice.op], by_name, choice, names, parts, tuning)
        kernels[choice.op] = kernel
        loaded[choice.op] = final
    return KernelTable(kernels, tuple(loaded.values()))


def _fallback_name(op: Op) -> str:
    return "reference" if op.compose is None else "composed"


def _make_fallback(op: Op, parts: KernelTable) -> Any:
    return op.reference if op.compose is None else op.compose(parts)


def _find_missing_part(spec: KernelSpec, names: Mapping[str, str]) -> str | None:
    """Say which op that a fused kernel builds on is served by another kernel than its own."""
    for op in spec.needs:
        if names.get(op) != spec.name:
            return f"it builds on {op}/{spec.name}, and {op} is served by {names.get(op)}"
    return None


def _load_first(
    op: Op,
    by_name: Mapping[tuple[str, str], KernelSpec],
    choice: KernelChoice,
    names: Mapping[str, str],
    parts: KernelTable,
    tuning: TuningTable | None,
) -> tuple[Any, KernelChoice]:
    """Load the best kernel of an op that can be loaded.

    Args:
        names: of the kernels that serve the ops before this one.
        parts: the table that composed ops call.
    """
    refused = choice.refused
    first = () if choice.plugin is None else ((choice.kernel, choice.plugin),)
    for name, plugin in (*first, *choice.spare):
        spec = by_name[op.name, name]
        missing = _find_missing_part(spec, names)
        if missing is not None:
            refused = (*(pair for pair in refused if pair[0] != name), (name, missing))
            continue
        try:
            kernel = _load(spec, tuning)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; it is told
            _log.warning("kernel %s/%s cannot be loaded", op.name, name, exc_info=True)
            reason = f"it cannot be loaded: {error}"
            refused = (*(pair for pair in refused if pair[0] != name), (name, reason))
            continue
        return kernel, replace(choice, kernel=name, plugin=plugin, refused=refused, spare=())
    return _make_fallback(op, parts), replace(
        choice, kernel=_fallback_name(op), plugin=None, refused=refused, spare=()
    )


def _load(spec: KernelSpec, tuning: TuningTable | None) -> Any:
    """Load one kernel, with the sizes that were found best for it here if there are any."""
    if tuning is None or spec.tunables is None:
        return spec.load()
    kernel = f"{spec.op}/{spec.name}"
    return spec.load(tuning.choose_rows(kernel, spec.tunables(tuning.device_type)))
