"""Text to token ids and back, with control tokens recognised only on request."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import tokenizers

from llmplug.chat.enough import ALL, Enough
from llmplug.chat.plain_tokenizer import make_plain_tokenizer
from llmplug.chat.token_bytes import TokenBytes, make_token_bytes
from llmplug.errors import CheckpointError, InvalidRequest

if TYPE_CHECKING:
    from llmplug.specs import TokenizerFiles


class Tokenizer:
    """The vocabulary of one model; immutable, and safe to share between threads.

    Encoding runs outside Python's global lock.

    Attributes:
        vocab_size: largest token id plus one.
        control_ids: ids of added tokens, those aside that are ordinary white space.
        special_ids: ids that `decode` leaves out when `skip_special_tokens` is set.
        special_tokens: what chat templates may refer to: `bos_token`, `eos_token`, `pad_token`...
        bos_token_id: None where the model has no such token.
        eos_token_id: the same.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        try:
            description = msgspec.json.decode(files.json)
            with no_panic():
                self._full = tokenizers.Tokenizer.from_str(files.json)
        except Exception as error:
            raise CheckpointError(f"the tokenizer cannot be read: {error}") from error
        self._full.no_truncation()
        self._full.no_padding()
        self.added_tokens: Mapping[int, tokenizers.AddedToken] = (
            self._full.get_added_tokens_decoder()
        )
        self.control_ids = frozenset(
            id_ for id_, token in self.added_tokens.items() if is_control(token)
        )
        self.special_ids = frozenset(i for i, token in self.added_tokens.items() if token.special)
        self._plain, self.control_names = make_plain_tokenizer(
            description, {id_: self.added_tokens[id_] for id_ in self.control_ids}
        )
        vocabulary = {id_: text for text, id_ in self._full.get_vocab().items()}
        self.vocab_size = max(vocabulary, default=-1) + 1
        self._bytes = make_token_bytes(description.get("decoder"), vocabulary)
        self.special_tokens = dict(files.special_tokens)
        self.bos_token_id = self._find_special("bos_token", files.bos_token)
        self.eos_token_id = self._find_special("eos_token", files.eos_token)
        self._prefix, self._suffix = self._find_frame(files.add_bos)

    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        allow_control: bool = True,
        enough: Enough = ALL,
    ) -> list[int]:
        """Split `text` into token ids.

        Args:
            add_special_tokens: put the model's own frame around the text, mostly a bos token.
            allow_control: recognise control tokens that `text` spells. Without it no text yields
                an id of `control_ids` (but the model's unknown token, for a character that has
                no other): what is spelled stays text.
            enough: how much of a text that is too long is wanted.
        Raises:
            InvalidRequest: the text holds a lone surrogate, which is no character.
        """
        ids = _encode(self._full if allow_control else self._plain, text, enough).ids
        return [*self._prefix, *ids, *self._suffix] if add_special_tokens else ids

    def encode_within(
        self,
        text: str,
        max_tokens: int | None,
        *,
        keeps_end: bool = False,
        add_special_tokens: bool = True,
        context_length: int | None = None,
    ) -> list[int]:
        """Encode a text that is read whole; what it spells stays text.

        Args:
            max_tokens: with the model's own frame; None: any number.
            keeps_end: cut at the beginning.
            context_length: of a text of more than twice as many, the rest may be left out.
        """
        enough = Enough(_least(max_tokens, context_length), keeps_end)
        ids = _encode(self._plain, text, enough).ids
        frame = (self._prefix, self._suffix) if add_special_tokens else ((), ())
        kept = ids
        if max_tokens is not None:
            room = max(0, max_tokens - len(frame[0]) - len(frame[1]))
            kept = ids[len(ids) - min(room, len(ids)) :] if keeps_end else ids[:room]
        return [*frame[0], *kept, *frame[1]]

    def encode_pair(
        self,
        first: str,
        second: str,
        max_tokens: int | None = None,
        context_length: int | None = None,
    ) -> tuple[list[int], list[int]]:
        """Encode two texts in the model's own frame; return ids, and the segment of each.

        What they spell stays text.

        Args:
            max_tokens: with the frame; the longer text is cut at its end. None: any number.
            context_length: of a text of more than twice as many, the rest may be left out.
        """
        enough = Enough(_least(max_tokens, context_length))
        one, two = (_encode(self._plain, text, enough) for text in (first, second))
        if max_tokens is not None:
            room = max(0, max_tokens - self._full.num_special_tokens_to_add(is_pair=True))
            kept = _share_room(len(one.ids), len(two.ids), room)
            one.truncate(kept[0])
            two.truncate(kept[1])
        both = self._full.post_process(one, two, add_special_tokens=True)
        return both.ids, both.type_ids

    def encode_named(self, text: str) -> list[int]:
        """Encode a text in which control tokens go by their names in `control_names`.

        What the text spells otherwise stays text. The names are drawn anew for each Tokenizer,
        so that nobody outside the process can write one.
        """
        return _encode(self._plain, text, ALL).ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Join the tokens' bytes and read them as UTF-8; invalid bytes become U+FFFD.

        Ids that are not in the vocabulary stand for nothing. Equal to the library's decoder but
        for byte tokens that make no valid UTF-8: each maximal invalid part becomes one U+FFFD,
        and valid characters beside it are kept.
        """
        if self._bytes is None:
            return self._full.decode(list(ids), skip_special_tokens=skip_special_tokens)
        start = TextStart(self._bytes)
        skipped = self.special_ids if skip_special_tokens else frozenset[int]()
        data = start.join([id_ for id_ in ids if id_ not in skipped])
        return codecs.decode(data, "utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that a token adds to a text; a control token's are its name."""
        if self._bytes is not None:
            return self._bytes.by_id.get(token_id, b"")
        return self._full.decode([token_id], skip_special_tokens=False).encode()

    def token_text(self, token_id: int) -> str:
        """The token's bytes as text, U+FFFD where they are only a part of a character."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def id_of(self, text: str) -> int | None:
        """The id of the token that is written `text` in the vocabulary."""
        return self._full.token_to_id(text)

    @property
    def frame_start(self) -> Sequence[int]:
        """What `encode` puts before a text: mostly a bos token, or nothing."""
        return self._prefix

    @property
    def table(self) -> TokenBytes | None:
        """Bytes by token id; None where the decoder does more than join bytes."""
        return self._bytes

    @property
    def library(self) -> tokenizers.Tokenizer:
        """The tokenizer of the `tokenizers` library; not to be changed."""
        return self._full

    def _find_special(self, variable: str, text: str | None) -> int | None:
        if text is None:
            return None
        token_id = self.id_of(text)
        if token_id is None:
            raise CheckpointError(f"{variable} {text!r} is not in the tokenizer's vocabulary")
        self.special_tokens[variable] = text
        return token_id

    def _find_frame(self, add_bos: bool | None) -> tuple[Sequence[int], Sequence[int]]:
        """What the post-processor puts before and after a text; `add_bos` overrules it."""
        with no_panic():
            inner = self._full.encode("a", add_special_tokens=False).ids
            outer = self._full.encode("a", add_special_tokens=True).ids
        starts = range(len(outer) - len(inner) + 1)
        at = next((i for i in starts if outer[i : i + len(inner)] == inner), 0)
        prefix, suffix = outer[:at], outer[at + len(inner) :]
        if add_bos is not None and self.bos_token_id is not None:
            others = [id_ for id_ in prefix if id_ != self.bos_token_id]
            prefix = [self.bos_token_id, *others] if add_bos else others
        return tuple(prefix), tuple(suffix)


def _encode(tokenizer: tokenizers.Tokenizer, text: str, enough: Enough) -> tokenizers.Encoding:
    """Encode a text, or as much of it as is enough.

    Raises:
        InvalidRequest: the text holds a lone surrogate, which is no character.
        CheckpointError: the tokenizer is such that the library gives up.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"the text holds a lone surrogate at character {error.start}; send valid Unicode"
        ) from error
    for part in enough.parts(text):
        with no_panic():
            encoding = tokenizer.encode(part, add_special_tokens=False)
        if enough.is_reached(len(encoding)):
            break
    return encoding


@contextmanager
def no_panic() -> Iterator[None]:
    """Make an error of a panic of the library, which is none that `except Exception` catches.

    Raises:
        CheckpointError: it panicked: what it read of the tokenizer's file contradicts itself.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"the tokenizer is damaged: {error}") from None


def _least(*bounds: int | None) -> int | None:
    return min((bound for bound in bounds if bound is not None), default=None)


def _share_room(first: int, second: int, room: int) -> tuple[int, int]:
    """Cut two lengths to a sum, token by token off the longer one."""
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= half:
        return first, room - first
    if second <= half:
        return room - second, second
    return room - half, half


class TextStart:
    """Joins tokens' bytes and applies what a decoder does to the start of a text."""

    def __init__(self, table: TokenBytes, *, keep_leading_space: bool = False) -> None:
        self._table = table
        self._num_spaces_left = 0 if keep_leading_space else table.num_leading_spaces
        self.is_done = keep_leading_space or not (table.num_leading_spaces or table.first_by_id)
        self._has_token = False

    def join(self, ids: Sequence[int]) -> bytes:
        """The bytes of the next tokens."""
        get = self._table.by_id.get
        if self.is_done:
            return b"".join([get(id_, b"") for id_ in ids])
        pieces = [get(id_, b"") for id_ in ids]
        if ids and not self._has_token:
            self._has_token = True
            pieces[0] = self._table.first_by_id.get(ids[0], pieces[0])
        data = b"".join(pieces)
        while self._num_spaces_left and data.startswith(b" "):
            data = data[1:]
            self._num_spaces_left -= 1
        self.is_done = self._has_token and (bool(data) or not self._num_spaces_left)
        return data


def is_control(token: Any) -> bool:
    """Whether a text that spells this added token must stay text.

    All added tokens but white space, such as runs of line breaks, and single letters that are not
    special: those are vocabulary for ordinary text that is kept in the same list.
    """
    is_ordinary = token.content.isspace() or len(token.content) == 1
    return token.special or not is_ordinary
