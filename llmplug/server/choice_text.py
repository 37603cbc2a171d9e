"""One sequence's way from ids to text, and from text to channels.

Incremental detokenising, stop strings, log-probabilities aligned with the text, the parser of the
model's dialect, the finish reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.chat.detokenize import Detokenizer
from llmplug.server.channel_text import ChannelText, choose_finish_reason
from llmplug.server.content_tokens import PlacedToken
from llmplug.server.deltas import ChoiceDelta, TokenText
from llmplug.types import FinishReason, SamplingParams, SequenceDelta, TokenLogprob

if TYPE_CHECKING:
    from llmplug.chat.stop_strings import StopStrings
    from llmplug.chat.tokenizer import Tokenizer
    from llmplug.server.channel_text import Reading


class ChoiceText:
    """One choice: token deltas of the engine in, deltas of the reply out.

    Attributes:
        num_tokens: tokens so far, for usage.
        is_finished: nothing more may be fed.
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        sampling: SamplingParams,
        *,
        continues_text: bool,
        reading: Reading | None = None,
        stops: StopStrings | None = None,
    ) -> None:
        """Begin a choice.

        Args:
            stops: what ends it, new; None: no text does.
        """
        self.index = index
        self.num_tokens = 0
        self.is_finished = False
        self._sampling = sampling
        self._detokenizer = Detokenizer(
            tokenizer,
            skip_special_tokens=sampling.skip_special_tokens,
            keep_leading_space=continues_text,
            shown_ids=reading.shown_ids if reading else frozenset(),
        )
        self._stops = stops if sampling.stop else None
        self._is_named = reading is not None and reading.is_named
        self._channels = (
            ChannelText(index, reading, has_tokens=sampling.logprobs is not None)
            if reading
            else None
        )
        self._stop_reason: str | int | None = None
        self._num_decoded = 0  # characters the tokens so far stand for
        self._num_emitted = 0  # of these, characters that left
        self._held: list[PlacedToken] = []  # tokens whose text is not out yet

    @property
    def num_reasoning(self) -> int:
        """Tokens so far that were thinking."""
        return self._channels.num_reasoning if self._channels else 0

    def feed(self, delta: SequenceDelta) -> list[ChoiceDelta]:
        """Take one step's tokens; return what of them may be shown."""
        visible = self._visible_ids(delta)
        out: list[ChoiceDelta] = []
        text = ""
        has_stopped = False
        self._note_stop_id(delta.stop_token_id)
        for ids, logprob in self._steps(visible, delta.logprobs):
            self.num_tokens += len(ids)
            start = self._num_decoded
            shown, has_stopped = self._show(self._detokenizer.feed(ids))
            if logprob is not None:
                token = TokenText(start, logprob.token_id, logprob.logprob, logprob.top)
                self._held.append(PlacedToken(token, self._num_decoded))
            if self._channels is None:
                text += shown
            else:
                out += self._split(self._channels, shown, len(ids))
                has_stopped |= self._channels.is_over
            if has_stopped:
                break
        if not has_stopped:
            self.num_tokens += len(delta.token_ids) - len(visible)
        reason = FinishReason.STOP if has_stopped else delta.finish_reason
        if reason is not None and not has_stopped:
            tail, has_stopped = self._finish()
            text += tail
            reason = FinishReason.STOP if has_stopped else reason
        self.is_finished = reason is not None
        releases_all = self.is_finished and not has_stopped
        if self._channels is not None:
            if reason is not None:
                out += self._split(self._channels, text, 0, releases_all=releases_all)
                out += self._channels.finish()
        else:
            self._num_emitted += len(text)
            tokens = [held.token for held in self._release(everything=releases_all)]
            if text or tokens:
                out.append(ChoiceDelta(self.index, text, tokens))
        if reason is not None:
            out.append(
                ChoiceDelta(
                    self.index,
                    finish_reason=self._finish_reason(reason),
                    stop_reason=self._stop_reason,
                )
            )
        return out

    def shift(self, num_chars: int) -> None:
        """Say that `num_chars` of echoed prompt stand before this text."""
        self._num_decoded += num_chars
        self._num_emitted += num_chars

    def _note_stop_id(self, token_id: int | None) -> None:
        if token_id is not None and token_id in self._sampling.stop_token_ids:
            self._stop_reason = token_id

    def _split(
        self, channels: ChannelText, text: str, num_tokens: int, *, releases_all: bool = False
    ) -> list[ChoiceDelta]:
        self._num_emitted += len(text)
        return channels.feed(text, num_tokens, self._release(everything=releases_all))

    def _finish_reason(self, reason: FinishReason) -> str:
        return choose_finish_reason(
            reason,
            has_complete_call=self._channels is not None and self._channels.has_complete_call,
            is_named=self._is_named,
        )

    def _visible_ids(self, delta: SequenceDelta) -> list[int]:
        """Drop the id that stopped the sequence: it is no part of the answer."""
        ids = delta.token_ids
        stopped = delta.stop_token_id is not None and ids and ids[-1] == delta.stop_token_id
        if stopped and not self._sampling.include_stop_str_in_output:
            return ids[:-1]
        return ids

    def _steps(
        self, ids: list[int], logprobs: list[TokenLogprob] | None
    ) -> list[tuple[list[int], TokenLogprob | None]]:
        """Cut a delta where each token's own text matters."""
        if logprobs is not None:
            return [([i], lp) for i, lp in zip(ids, logprobs, strict=False)]
        if len(ids) > 1 and (self._stops is not None or self._channels is not None):
            return [([i], None) for i in ids]
        return [(ids, None)] if ids else []

    def _show(self, text: str) -> tuple[str, bool]:
        """Pass text through the stop strings, once `min_tokens` are there."""
        self._num_decoded += len(text)
        if self._stops is None or self.num_tokens < self._sampling.min_tokens:
            return text, False
        result = self._stops.feed(text)
        if result.matched is not None:
            self._stop_reason = result.matched
        return result.text, result.matched is not None

    def _finish(self) -> tuple[str, bool]:
        text, has_stopped = self._show(self._detokenizer.finish())
        if self._stops is not None and not has_stopped:
            text += self._stops.finish()
        return text, has_stopped

    def _release(self, *, everything: bool) -> list[PlacedToken]:
        """Let the tokens go whose text is out; after a stop string the rest is dropped."""
        held = self._held
        count = len(held)
        if not everything:
            count = sum(1 for each in held if each.token.offset < self._num_emitted)
        out, self._held = held[:count], held[count:]
        return out
