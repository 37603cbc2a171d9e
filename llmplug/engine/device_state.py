"""What the device knows of running sequences from step to step, in one buffer that never moves.

Each running sequence has a row; one more row, the last, stands for nothing: padding. A step is told
what has changed, as places in the buffer and their new values, and computes the rest by itself:
positions, slots, lengths and block tables. So a captured step finds all it reads where it was.

Legend: R rows, one of them padding, S sequences in this step, B rows of a decode step with its
padding, T packed tokens, M pages a sequence may have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llmplug.engine.batch import Batch
from llmplug.ops import AttentionBatch


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Where in the buffer things stand, in numbers of 8 bytes."""

    num_rows: int  # for sequences; the padding row has this number
    pages_per_row: int

    @property
    def num_places(self) -> int:
        """Length of the buffer."""
        return self.find_page(self.num_rows + 1, 0)

    def find_id(self, row: int) -> int:
        """Return the place of a row's last token, which the next step computes."""
        return row

    def find_length(self, row: int) -> int:
        """Return the place of the number of a row's tokens that are in the cache."""
        return self.num_rows + 1 + row

    def find_decode(self, index: int) -> int:
        """Return the place of the row that a decode step has as its `index`-th."""
        return 2 * (self.num_rows + 1) + index

    def find_page(self, row: int, index: int) -> int:
        """Return the place of a page's number; -1 after a row's last."""
        return 3 * (self.num_rows + 1) + row * self.pages_per_row + index


class DeviceState:
    """The buffer, and what steps are made of from it, without a word to the host."""

    def __init__(self, layout: StateLayout, page_size: int, device: torch.device) -> None:
        self._page_size = page_size
        self._flat = torch.full((layout.num_places,), -1, dtype=torch.int64, device=device)
        sizes = [layout.num_rows + 1] * 3
        sizes.append((layout.num_rows + 1) * layout.pages_per_row)
        self.ids_R, self.lengths_R, self.decodes_R, pages = torch.split(self._flat, sizes)
        self.pages_RM = pages.view(layout.num_rows + 1, layout.pages_per_row)
        self.ids_R.zero_()
        self.lengths_R.zero_()
        self.decodes_R.fill_(layout.num_rows)
        self._starts_R1 = torch.arange(layout.num_rows + 2, dtype=torch.int32, device=device)
        self._padding_row = layout.num_rows

    def write(self, places: torch.Tensor, values: torch.Tensor) -> None:
        """Take over what has changed: int64, on the device; no place comes twice."""
        self._flat.index_copy_(0, places, values)

    def keep(self, rows_S: torch.Tensor, ids_S: torch.Tensor) -> None:
        """Keep chosen tokens for the next step."""
        self.ids_R.index_copy_(0, rows_S, ids_S)

    def find_ids(self, rows_S: torch.Tensor) -> torch.Tensor:
        """Return the last tokens of rows, -1 for the row -1."""
        return torch.where(rows_S >= 0, self.ids_R[rows_S], -1)

    def start_decodes(self, num_rows: int, cached_lens: tuple[int, ...]) -> Batch:
        """Move the first `num_rows` of `decodes_R` on by one token, and lay out their step.

        Args:
            cached_lens: as the host knows them, this step's token included; 0: padding.
        """
        rows_B = self.decodes_R[:num_rows]
        is_there_B = rows_B != self._padding_row
        lengths_B = self.lengths_R[rows_B] + is_there_B
        self.lengths_R.index_copy_(0, rows_B, lengths_B)
        positions_B = (lengths_B - 1).clamp_(min=0)
        table_BM = self.pages_RM[rows_B]
        attention = AttentionBatch(
            num_decodes=num_rows,
            query_lens=(1,) * num_rows,
            cached_lens=cached_lens,
            query_starts_S1=self._starts_R1[: num_rows + 1],
            cached_lens_S=lengths_B.int(),
            block_table_SM=table_BM.int(),
            slots_T=torch.where(is_there_B, self._find_slots(table_BM, positions_B), -1),
        )
        return Batch(token_ids_T=self.ids_R[rows_B], positions_T=positions_B, attention=attention)

    def start_mixed(
        self,
        rows_S: torch.Tensor,
        counts_S: torch.Tensor,
        chunk_ids: torch.Tensor,
        query_lens: tuple[int, ...],
        cached_lens: tuple[int, ...],
    ) -> Batch:
        """Move sequences on by some tokens each, those of one token first; no padding.

        Args:
            rows_S: their rows.
            counts_S: their new tokens.
            chunk_ids: the tokens of all that have several.
            query_lens: `counts_S` on the host.
            cached_lens: as the host knows them, this step's tokens included.
        """
        num_sequences, num_tokens = len(query_lens), sum(query_lens)
        num_decodes = num_tokens - len(chunk_ids)
        past_S = self.lengths_R[rows_S]
        self.lengths_R.index_copy_(0, rows_S, past_S + counts_S)
        order_S = self._starts_R1[:num_sequences]
        sequences_T = order_S.repeat_interleave(counts_S, output_size=num_tokens)
        starts_S1 = torch.cat((self._starts_R1[:1], counts_S.cumsum(0).int()))
        offsets_T = torch.arange(num_tokens, device=rows_S.device) - starts_S1[sequences_T]
        positions_T = past_S[sequences_T] + offsets_T
        num_pages = -(-max(cached_lens) // self._page_size)
        table_SM = self.pages_RM[rows_S, :num_pages]
        attention = AttentionBatch(
            num_decodes=num_decodes,
            query_lens=query_lens,
            cached_lens=cached_lens,
            query_starts_S1=starts_S1,
            cached_lens_S=(past_S + counts_S).int(),
            block_table_SM=table_SM.int(),
            slots_T=self._find_slots(table_SM[sequences_T], positions_T),
        )
        token_ids_T = torch.cat((self.ids_R[rows_S[:num_decodes]], chunk_ids))
        return Batch(token_ids_T=token_ids_T, positions_T=positions_T, attention=attention)

    def _find_slots(self, table_TM: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
        pages_T1 = table_TM.gather(1, (positions_T // self._page_size)[:, None])
        return pages_T1[:, 0] * self._page_size + positions_T % self._page_size
