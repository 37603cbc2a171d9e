"""How much each tenant has been served, so that the least served goes first.

Source: Fairness in Serving Large Language Models, https://arxiv.org/abs/2401.00588, algorithm 2
(virtual token counters) with its weights; prompt tokens that the prefix cache had are free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.engine.sequence import Sequence

PROMPT_WEIGHT = 1
OUTPUT_WEIGHT = 2


@dataclass(slots=True)
class _Account:
    served: int = 0  # weighed tokens
    num_sequences: int = 0  # not finished


class FairShare:
    """A counter for each tenant that is active, and for idle ones that are ahead of an active one.

    Whoever comes back from being idle is lifted to the least served of the active tenants: nobody
    saves up. An idle tenant that this one has caught up with is forgotten.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    @property
    def is_contended(self) -> bool:
        """Whether there is more than one tenant to be fair to."""
        return len(self._accounts) > 1

    def served(self, tenant: str) -> int:
        """Return the weighed tokens that an active tenant was given."""
        return self._accounts[tenant].served

    def enter(self, sequence: Sequence, running: Iterable[Sequence]) -> None:
        """Note that a tenant has one more sequence; `running` may have outputs not charged yet."""
        tenant = sequence.request.tenant
        account = self._accounts.get(tenant, _Account())
        if account.num_sequences == 0:
            self.charge_outputs(running)
            account.served = max(account.served, self._find_least() or 0)
            self._accounts[tenant] = account
        account.num_sequences += 1

    def leave(self, sequence: Sequence) -> None:
        """Note that a sequence has ended, charging the rest of it."""
        self.charge_outputs((sequence,))
        account = self._accounts[sequence.request.tenant]
        account.num_sequences -= 1
        if account.num_sequences:
            return
        least = self._find_least()
        self._accounts = {
            tenant: known
            for tenant, known in self._accounts.items()
            if known.num_sequences or (least is not None and known.served > least)
        }

    def charge_prompt(self, sequence: Sequence) -> None:
        """Charge the prompt tokens that have to be computed; once a sequence."""
        num_tokens = sequence.num_prompt - (sequence.num_cached_tokens or 0)
        self._accounts[sequence.request.tenant].served += PROMPT_WEIGHT * num_tokens

    def charge_outputs(self, sequences: Iterable[Sequence]) -> None:
        """Charge the tokens that were generated since the last time."""
        for sequence in sequences:
            num_new = len(sequence.output_ids) - sequence.num_charged
            if num_new:
                sequence.num_charged += num_new
                self._accounts[sequence.request.tenant].served += OUTPUT_WEIGHT * num_new

    def _find_least(self) -> int | None:
        """Return the least counter of an active tenant; None: all are idle."""
        return min((a.served for a in self._accounts.values() if a.num_sequences), default=None)
