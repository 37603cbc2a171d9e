"""Log-probabilities of a step: of the tokens that it chose, and of prompts.

Legend: S sequences that a token is chosen for, R of these that ask, T packed tokens, D model width,
V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.engine.logprobs import compute_logprobs

if TYPE_CHECKING:
    import torch

    from llmplug.engine.flight import Forward, Sample
    from llmplug.engine.runner import StepRunner
    from llmplug.engine.scheduler import Schedule

# Rows of prompt logits at a time: 64 x 152k float32 are 39 MB.
LOGPROB_ROWS = 64


def rate_choices(
    raw_RV: torch.Tensor, asking: list[int], forward: Forward, samples: list[Sample]
) -> None:
    """Add log-probabilities to the samples of the rows that ask, if they have a token.

    Args:
        raw_RV: logits before samplers.
        asking: which of the S these R are.
        samples: of each sequence in the schedule.
    """
    found = [samples[forward.places[row]] for row in asking]
    good = [r for r, sample in enumerate(found) if sample.error is None]
    if not good:
        return
    logprobs = compute_logprobs(
        raw_RV[good],
        [found[r].token_id or 0 for r in good],
        [forward.sequences[asking[r]].request.sampling.logprobs or 0 for r in good],
    )
    for r, logprob in zip(good, logprobs, strict=True):
        found[r].logprob = logprob


def rate_prompts(schedule: Schedule, hidden_TD: torch.Tensor, runner: StepRunner) -> None:
    """Add log-probabilities of the prompt tokens that follow those of this step."""
    end = 0
    for sequence, count in schedule:
        start, end = end, end + count
        known = sequence.prompt_logprobs
        if known is None:
            continue
        # After a preemption tokens are computed again that are rated already.
        first = max(sequence.num_computed, len(known) - 1)
        last = min(sequence.num_computed + count, sequence.num_prompt - 1)
        offset = start - sequence.num_computed
        num_top = sequence.request.sampling.prompt_logprobs or 0
        for low in range(first, last, LOGPROB_ROWS):
            high = min(low + LOGPROB_ROWS, last)
            rows = list(range(low + offset, high + offset))
            logits_RV = runner.compute_logits(hidden_TD, rows)
            token_ids = sequence.token_ids[low + 1 : high + 1]
            known.extend(compute_logprobs(logits_RV, token_ids, [num_top] * len(rows)))
