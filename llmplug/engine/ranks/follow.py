"""What a rank beside rank 0 does: the same calls of the model, in the same order.

Legend: T packed tokens, S rows to choose a token for, D model width.
"""

from __future__ import annotations

import logging
import os
from array import array
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NoReturn

import msgspec
import torch

from llmplug.engine.device_runner import DeviceRunner
from llmplug.engine.pooling import make_text_batch
from llmplug.engine.ranks.link import EXIT_ORPHANED
from llmplug.engine.ranks.messages import (
    BuildModel,
    Call,
    ComputeLogits,
    FirstWords,
    Hello,
    KeepTokens,
    Order,
    RankFailed,
    RankReady,
    ReadTexts,
    Refusal,
    Report,
    RunStep,
)
from llmplug.errors import LlmplugError, from_wire, to_wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmplug.engine.pooling import TextReader
    from llmplug.engine.ranks.collective import GroupCollective
    from llmplug.engine.ranks.link import Link
    from llmplug.engine.runner import Runner

FAILED = 1
_first_decoder: msgspec.msgpack.Decoder[FirstWords] = msgspec.msgpack.Decoder(FirstWords)
_build_decoder = msgspec.msgpack.Decoder(BuildModel)
_call_decoder: msgspec.msgpack.Decoder[Call] = msgspec.msgpack.Decoder(Call)
_encoder = msgspec.msgpack.Encoder()
_log = logging.getLogger(__name__)


class Follower:
    """One rank's talk with rank 0."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def join(self, node: int, place: int) -> Order:
        """Say from another machine where we are, and wait to be told who.

        Raises:
            LlmplugError: we cannot take part.
        """
        self._link.send(_encoder.encode(Hello(node, place)))
        return self.read_order()

    def ask_for_store(self, node: int, place: int) -> None:
        """Have this link be for finding the other ranks alone."""
        self._link.send(_encoder.encode(Hello(node, place, is_store=True)))

    def read_order(self) -> Order:
        """Wait to be told who we are.

        Raises:
            LlmplugError: we cannot take part.
        """
        words = _first_decoder.decode(self._receive())
        if isinstance(words, Refusal):
            raise from_wire(words.error)
        return words

    def read_plan(self) -> BuildModel:
        """Wait until rank 0 has planned."""
        return _build_decoder.decode(self._receive())

    def report(self, report: Report) -> None:
        """Tell rank 0."""
        self._link.send(_encoder.encode(report))

    def fail(self, error: Exception) -> NoReturn:
        """End with these last words, without waiting for anybody."""
        if not isinstance(error, LlmplugError):
            _log.error("the rank fails", exc_info=error)
        with suppress(OSError):  # rank 0 is gone, which may be why
            self.report(RankFailed(to_wire(error)))
        os._exit(FAILED)

    @torch.inference_mode()
    def follow(self, make: Callable[[Call], None]) -> NoReturn:
        """Make the calls that rank 0 makes, until it is gone."""
        self.report(RankReady())
        while True:
            make(_call_decoder.decode(self._receive()))

    def _receive(self) -> bytes:
        message = self._link.receive()
        if message is None:
            os._exit(EXIT_ORPHANED)
        return message


class RunnerCalls:
    """Makes calls of a runner; the results are rank 0's to use."""

    def __init__(self, runner: Runner, collective: GroupCollective, device: torch.device) -> None:
        self._runner = runner
        self._collective = collective
        self._device = device
        self._hidden_TD = torch.empty(0)  # of the last step

    def __call__(self, call: Call) -> None:
        """Make one."""
        if isinstance(call, RunStep):
            self._hidden_TD = self._runner.run_step(call.step)
            if call.rows:
                self._runner.compute_logits(self._hidden_TD, list(call.rows))
        elif isinstance(call, ComputeLogits):
            self._runner.compute_logits(self._hidden_TD, list(call.rows))
        elif isinstance(call, KeepTokens) and isinstance(self._runner, DeviceRunner):
            ids_S = torch.empty(len(call.rows), dtype=torch.int64, device=self._device)
            self._runner.keep_rows(call.rows, self._collective.broadcast(ids_S))
        else:
            raise TypeError(f"a {type(self._runner).__name__} is not told {call}")


class ReaderCalls:
    """Makes calls of a reader of whole texts."""

    def __init__(self, reader: TextReader, device: torch.device) -> None:
        self._reader = reader
        self._device = device

    def __call__(self, call: Call) -> None:
        """Make one."""
        if not isinstance(call, ReadTexts):
            raise TypeError(f"a reader of texts is not told {call}")
        bounds = list(pairwise(accumulate(call.lengths, initial=0)))
        token_ids, type_ids = (
            [ids[start:end] for start, end in bounds]
            for ids in (array("q", call.token_ids), array("q", call.type_ids))
        )
        self._reader.encode(make_text_batch(token_ids, type_ids, self._device))
