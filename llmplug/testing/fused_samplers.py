"""Check a sampler that stands for several others: it does what they do, one after the other.

Legend: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from llmplug.ops import REFERENCES, KernelChoice, KernelTable
from llmplug.specs import SamplerRow, SamplerSpec
from llmplug.testing.closeness import expect_close
from llmplug.testing.expect import expect
from llmplug.testing.sampler_rows import CPU, OPS, make_odd_logits, make_rows, make_sampler

if TYPE_CHECKING:
    from llmplug.ops import Op

_TOLERANCES = (1e-5, 1e-5)  # float32, rounded once or several times


def check_fused_sampler(
    spec: SamplerSpec,
    parts: Sequence[SamplerSpec],
    settings: Sequence[Mapping[str, Mapping[str, Any]]],
    *,
    vocab_size: int = 501,
) -> None:
    """Compare a sampler with those that it fuses, on rows of every kind, alone and in a batch.

    Args:
        spec: from `llmplug_samplers()`, with `fuses`.
        parts: the samplers that it fuses, in the order in which they run.
        settings: of each row {name of a part: its parameters}; parts may be left out.
        vocab_size: of the rows.

    Raises:
        AssertionError: says for which settings they part.
    """
    by_name = {part.name: part for part in parts}
    expect(
        set(spec.fuses) == set(by_name),
        f"{spec.name} fuses {', '.join(spec.fuses)}: give these as `parts`",
    )
    expect(spec.fuse is not None, f"{spec.name} has no `fuse`, which makes its parameters")
    fused = spec.make(vocab_size, CPU, _make_served(REFERENCES))
    expect(fused is not None, f"{spec.name}: `make` gives None where kernels serve all ops")
    rows = [_fuse(spec, by_name, each, vocab_size) for each in settings]
    logits_RV = make_odd_logits(len(rows), vocab_size)
    together = _run(spec, fused, logits_RV, rows)
    for i, each in enumerate(settings):
        expected = _run_in_turn(parts, each, logits_RV[i : i + 1], rows[i])
        alone = _run(spec, fused, logits_RV[i : i + 1], [rows[i]])
        expect(torch.equal(alone[0], together[i]), f"{spec.name} depends on the batch, at {each}")
        advice = f"{spec.name} is not {', then '.join(each)} with {dict(each)}."
        expect_close(alone, expected, _TOLERANCES, advice)


def _make_served(references: Mapping[str, Op]) -> KernelTable:
    """Return references that pass for a kernel's, so that samplers of several in one stand in."""
    choices = tuple(KernelChoice(op=op, kernel="fast", plugin="somebody") for op in references)
    return KernelTable({op: getattr(OPS, op) for op in references}, choices)


def _fuse(
    spec: SamplerSpec,
    by_name: Mapping[str, SamplerSpec],
    setting: Mapping[str, Mapping[str, Any]],
    vocab_size: int,
) -> SamplerRow:
    row, *_ = make_rows(next(iter(by_name.values())), [{}], vocab_size)
    known = {name: by_name[name].params(**fields) for name, fields in setting.items()}
    row.params = spec.fuse(known) if spec.fuse is not None else None
    return row


def _run(
    spec: SamplerSpec, sampler: Any, logits_RV: torch.Tensor, rows: Sequence[SamplerRow]
) -> torch.Tensor:
    """Return edited logits, or ids."""
    edited_RV = logits_RV.clone()
    if spec.stage == "choose":
        chosen: torch.Tensor = sampler.choose(edited_RV, rows)
        return chosen
    sampler.apply(edited_RV, rows)
    return edited_RV


def _run_in_turn(
    parts: Sequence[SamplerSpec],
    setting: Mapping[str, Mapping[str, Any]],
    logits_RV: torch.Tensor,
    row: SamplerRow,
) -> torch.Tensor:
    result = logits_RV
    for part in parts:
        if part.name in setting:
            params = part.params(**setting[part.name])
            own = SamplerRow(params, row.prompt_ids, row.output_ids, row.seed, row.position)
            result = _run(part, make_sampler(part, logits_RV.shape[1]), result, [own])
    return result
