"""The sampler chain: logits -> one token id a row.

Legend: S rows of this step, R rows of one sampler, V vocabulary.

Samplers run by stage, then by order, then by name; each on the rows that ask for it. When one of
them raises, the step is sampled again row by row: only the rows that raise alone fail.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llmplug.engine.limits import sampler_values
from llmplug.engine.thinking import force_ends
from llmplug.errors import EngineError, UnsupportedParameter
from llmplug.specs import SamplerRow, SamplerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from llmplug.engine.sequence import Sequence
    from llmplug.types import SamplingParams

_STAGES = ("bias", "scale", "filter", "choose")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """What came of one row: a token, or why there is none."""

    token_id: int
    error: Exception | None = None


class SamplerChain:
    """All samplers of an engine, in the order in which they run."""

    def __init__(self, specs: Iterable[SamplerSpec], vocab_size: int, device: torch.device) -> None:
        self.specs = sorted(specs, key=lambda s: (_STAGES.index(s.stage), s.order, s.name))
        self._samplers = [spec.make(vocab_size, device) for spec in self.specs]
        self._vocab_size = vocab_size

    def select(self, sampling: SamplingParams) -> tuple[tuple[int, Any], ...]:
        """Return (place in the chain, parameters) of the samplers that a request needs.

        Raises:
            UnsupportedParameter: none of them chooses a token.
        """
        fields: Mapping[str, Any] = {
            name: getattr(sampling, name) for name in sampling.__struct_fields__
        }
        active: list[tuple[int, Any]] = []
        for place, spec in enumerate(self.specs):
            params = sampler_values(spec.params, fields)
            if not spec.is_active(params):
                continue
            active.append((place, params))
            if spec.stage == "choose":
                return tuple(active)
        raise UnsupportedParameter(
            f"No sampler of this model serves temperature {sampling.temperature}.",
            param="temperature",
        )

    def sample(
        self,
        logits_SV: torch.Tensor,
        sequences: list[Sequence],
        compute_again: Callable[[], torch.Tensor],
    ) -> list[Choice]:
        """Choose a token for each sequence.

        Args:
            logits_SV: float32; edited.
            compute_again: makes the same logits anew, in case a sampler fails half-way.
        """
        try:
            return self._choose(logits_SV, sequences)
        except Exception:  # noqa: BLE001 - a plugin may raise anything; each row is tried alone
            _log.warning("sampling a batch failed; trying row by row", exc_info=True)
        fresh_SV = compute_again()
        return [
            self._choose_alone(fresh_SV[row : row + 1].clone(), sequence)
            for row, sequence in enumerate(sequences)
        ]

    def _choose_alone(self, logits_1V: torch.Tensor, sequence: Sequence) -> Choice:
        try:
            return self._choose(logits_1V, [sequence])[0]
        except Exception as error:  # noqa: BLE001 - it ends this row; its caller is told
            return Choice(-1, error)

    def _choose(self, logits_SV: torch.Tensor, sequences: list[Sequence]) -> list[Choice]:
        _hold_back_stops(logits_SV, sequences)
        force_ends(logits_SV, sequences)
        groups = self._group(sequences)
        ids_S: torch.Tensor | None = None
        for place in sorted(groups):
            rows, sampler_rows = groups[place]
            sampler, is_last = self._samplers[place], self.specs[place].stage == "choose"
            if len(rows) == len(sequences):  # nearly always; each torch op costs some 20 us
                if is_last:
                    return self._check(logits_SV, sampler.choose(logits_SV, sampler_rows))
                sampler.apply(logits_SV, sampler_rows)
                continue
            rows_R = torch.tensor(rows, device=logits_SV.device)
            logits_RV = logits_SV[rows_R]
            if is_last:
                if ids_S is None:
                    ids_S = torch.full((len(sequences),), -1, device=logits_SV.device)
                ids_S[rows_R] = sampler.choose(logits_RV, sampler_rows)
                continue
            sampler.apply(logits_RV, sampler_rows)
            logits_SV[rows_R] = logits_RV
        if ids_S is None:
            raise EngineError("no sampler chose a token")
        return self._check(logits_SV, ids_S)

    def _group(self, sequences: list[Sequence]) -> dict[int, tuple[list[int], list[SamplerRow]]]:
        """Collect for each sampler the rows that ask for it."""
        groups: dict[int, tuple[list[int], list[SamplerRow]]] = {}
        for row, sequence in enumerate(sequences):
            position = len(sequence.token_ids)
            for place, params in sequence.samplers:
                rows, sampler_rows = groups.setdefault(place, ([], []))
                rows.append(row)
                sampler_rows.append(
                    SamplerRow(
                        params,
                        sequence.request.prompt_ids,
                        sequence.output_ids,
                        sequence.seed,
                        position,
                    )
                )
        return groups

    def _check(self, logits_SV: torch.Tensor, ids_S: torch.Tensor) -> list[Choice]:
        """Refuse ids out of range, and rows whose logits were NaN or all forbidden.

        One number a row tells: an argmax over a row with a NaN finds the NaN.
        """
        token_ids: list[int] = ids_S.tolist()
        if min(token_ids) < 0 or max(token_ids) >= self._vocab_size:
            ids_S = ids_S.clamp(0, self._vocab_size - 1)
        logits: list[float] = logits_SV.gather(1, ids_S[:, None])[:, 0].tolist()
        choices = []
        for token_id, logit in zip(token_ids, logits, strict=True):
            error = None
            if not 0 <= token_id < self._vocab_size:
                error = EngineError(f"a sampler chose token {token_id}, which does not exist")
            elif not math.isfinite(logit):
                error = EngineError(
                    "the model's logits are not finite, or every token is forbidden"
                )
            choices.append(Choice(token_id, error))
        return choices


def _hold_back_stops(logits_SV: torch.Tensor, sequences: list[Sequence]) -> None:
    """Forbid the ids that end a sequence, until its `min_tokens` are there."""
    for row, sequence in enumerate(sequences):
        if sequence.stop_ids and sequence.is_stop_held_back:
            logits_SV[row, sorted(sequence.stop_ids)] = float("-inf")
