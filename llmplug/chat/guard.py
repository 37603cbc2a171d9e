"""Control tokens belong to the template: what users write can spell one, but never be one.

Before rendering, every string of the conversation is marked with characters that it does not hold.
The template carries the marks along. In its output a control token without marks is the
template's own; everything else is text.

`cut` breaks. It stands after each opening character of a token (the `<` of `<|end|>`), after the
first letter of each spelled token that opens with a letter, and at the start or end of a string
that could complete a token across a seam. So whatever a template does with the text (trim, split,
join, change case), it cannot begin a token with it; only a template that removes single characters
from the middle of a text could mend one.

`open` and `close` embrace texts that the template itself searches for, as in
`content.split('</think>')`: a cut would hide them. A control token is text if it stands, with
white space at most, between the two. They stand outside the white space around the text, so that
a template's `strip` after its `split` works as ever. A template that takes such a text away and
puts the same one back in its place leaves no trace of having done so: then, too, it counts as text.
What is left of a text that was nothing but the embraced one still holds a mark, so that a template
does not find it empty.

For text that spells no control token, the ids equal those of transformers' `apply_chat_template`:
marks are taken out before the text is encoded, and it is encoded as one text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers.models import WordLevel

from llmplug.chat.enough import ALL, Enough
from llmplug.chat.seams import Seams
from llmplug.chat.template_reading import find_mentioned, find_searched

if TYPE_CHECKING:
    from jinja2 import nodes

    from llmplug.chat.marks import Marks
    from llmplug.chat.tokenizer import Tokenizer


class Guard:
    """Marks conversations for one vocabulary and template, and encodes what comes out."""

    def __init__(self, tokenizer: Tokenizer, tree: nodes.Template) -> None:
        """Prepare.

        Args:
            tokenizer: its control tokens are guarded.
            tree: of the template.
        """
        texts = {tokenizer.added_tokens[id_].content for id_ in tokenizer.control_ids}
        words = {text for text in texts if text[0].isalnum() or text[0].isspace()}
        openings = {text[0] for text in texts - words}
        searched = find_searched(tree)
        # A cut before their last character hides these from the template.
        hidden = {t for t in searched if openings & set(t[:-1])} | (searched & words)
        singles = {text for text in texts if len(text) == 1}  # nothing to cut
        self._embraced = singles | {
            text for text in hidden if any(token.lower() in text.lower() for token in texts)
        }
        self._spots = _alternatives(
            f"(?P<searched>{_any_of(hidden | singles)})" if hidden or singles else None,
            f"(?P<word>(?i:{_any_of(words - singles)}))" if words - singles else None,
            f"[{re.escape(''.join(openings))}]" if openings else None,
        )
        self._seams = Seams(texts)
        self._word_seams = Seams(words)
        self._mentioned = {
            word for word in find_mentioned(tree) if word.lower() not in map(str.lower, texts)
        }
        self._tokenizer = tokenizer
        self._finder, self._ids = _make_finder(tokenizer)

    def mark(self, value: Any, marks: Marks) -> Any:
        """Copy a value of JSON types with every string in it marked, keys included."""
        if isinstance(value, str):
            return self._mark_text(value, marks)
        if isinstance(value, Mapping):
            return {self.mark(key, marks): self.mark(item, marks) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mark(item, marks) for item in value]
        return value

    def encode(self, rendered: str, marks: Marks, enough: Enough = ALL) -> list[int]:
        """Encode marked output: unmarked control tokens as such, all the rest as text."""
        for part in enough.parts(rendered):
            ids = self._encode(part, marks)
            if enough.is_reached(len(ids)):
                break
        return ids

    def _encode(self, rendered: str, marks: Marks) -> list[int]:
        pieces: list[str] = []
        position = 0
        for start, end, name in self._find_scaffold(rendered, marks):
            pieces += (marks.remove_from(rendered[position:start]), name)
            position = end
        pieces.append(marks.remove_from(rendered[position:]))
        return self._tokenizer.encode_named("".join(pieces))

    def _mark_text(self, text: str, marks: Marks) -> str:
        if text in self._mentioned:
            return text
        pieces: list[str] = []
        position = 0
        for spot in self._spots.finditer(text):
            start, end = spot.span()
            if start < position:  # in white space that an embraced text took along
                continue
            if spot[0] in self._embraced:
                start, end = _widen(text, position, start, end)
                pieces += (text[position:start], marks.open, text[start:end], marks.close)
            elif spot.lastgroup == "searched":
                pieces.append(text[position:end])
                if self._seams.leaves_open(spot[0]):
                    pieces.append(marks.cut)
            else:
                end = start + 1
                pieces += (text[position:end], marks.cut)
            position = end
        pieces.append(text[position:])
        return self._cut_edges(text, "".join(pieces), marks)

    def _cut_edges(self, text: str, marked: str, marks: Marks) -> str:
        core = text.strip()
        if not core:
            return marked
        if self._word_seams.leaves_open(core):
            num_kept = len(marked.rstrip())
            marked = marked[:num_kept] + marks.cut + marked[num_kept:]
        if self._seams.completes_start(core) or self._seams.is_inside(core):
            num_spaces = len(text) - len(text.lstrip())
            marked = marked[:num_spaces] + marks.cut + marked[num_spaces:]
        return marked

    def _find_scaffold(self, rendered: str, marks: Marks) -> Iterator[tuple[int, int, str]]:
        """Find the template's control tokens: start, end, and the name for `encode_named`."""
        embraced = self._find_embraced(rendered, marks)
        text_start, text_end = next(embraced)
        found = self._finder.encode(rendered, add_special_tokens=False)
        for finder_id, (start, end) in zip(found.ids, found.offsets, strict=True):
            token_id = self._ids.get(finder_id)
            if token_id is None:
                continue
            while text_end <= start:
                text_start, text_end = next(embraced)
            if start < text_start:
                yield start, end, self._tokenizer.control_names[token_id]

    def _find_embraced(self, rendered: str, marks: Marks) -> Iterator[tuple[int, int]]:
        if marks.open in rendered:
            pattern = rf"{marks.open}\s*(?:{_any_of(self._embraced)})\s*{marks.close}"
            for embraced in re.finditer(pattern, rendered):
                yield embraced.span()
        yield len(rendered), len(rendered) + 1


def _widen(text: str, position: int, start: int, end: int) -> tuple[int, int]:
    """Take the white space around `text[start:end]` along, but not that at the text's edges."""
    before = position + len(text[position:start].rstrip())
    after = end
    while after < len(text) and text[after].isspace():
        after += 1
    return start if before == 0 else before, end if after == len(text) else after


def _any_of(texts: Iterable[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))


def _alternatives(*parts: str | None) -> re.Pattern[str]:
    return re.compile("|".join(part for part in parts if part) or "(?!)")


def _make_finder(tokenizer: Tokenizer) -> tuple[tokenizers.Tokenizer, dict[int, int]]:
    """Make a tokenizer that finds added tokens and nothing else, by the library's own rules.

    Only exact spellings count: with `normalized` other texts (full-width letters) would be found
    that no mark stands in.

    Returns:
        The finder, and from its ids to those of control tokens.
    """
    finder = tokenizers.Tokenizer(WordLevel({"": 0}, unk_token=""))
    finder.add_tokens(
        [
            tokenizers.AddedToken(
                token.content,
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=False,
                special=token.special,
            )
            for token in tokenizer.added_tokens.values()
        ]
    )
    ids = {tokenizer.added_tokens[id_].content: id_ for id_ in tokenizer.control_ids}
    found = finder.get_added_tokens_decoder().items()
    return finder, {own: ids[token.content] for own, token in found if token.content in ids}
