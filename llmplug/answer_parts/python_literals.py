"""Literals of Python (and of JSON) in text that comes in pieces, and the JSON they stand for."""

from __future__ import annotations

import json
import math
import re
import unicodedata

MAX_DEPTH = 64  # of nested brackets
# What says nothing of where a value ends, whole strings without escapes included.
_PLAIN, _PLAIN_IN_BRACKETS = (
    re.compile(rf"""(?:[^'"\[\](){{}}{comma}\\#]++|'[^'\\]++'|"[^"\\]++")++""")
    for comma in (",", "")
)
_IN_STRING = {"'": re.compile(r"[^'\\]+"), '"': re.compile(r'[^"\\]+')}
_OPENS, _CLOSES = "([{", ")]}"

_BLANK = r"[ \t\n\r\f]*+"
_STRINGS = [
    rf"{q * 3}(?:[^{q}\\]++|\\.|{q}(?!{q * 2}))*+{q * 3}|(?!{q * 3}){q}(?:[^{q}\\\n]++|\\.)*+{q}"
    for q in "'\""
]
_STRING = rf"(?P<string>[rRuU]?(?:{'|'.join(_STRINGS)}))"
_MORE = re.compile(rf"{_STRING}{_BLANK}", re.DOTALL)
_VALUE = re.compile(
    rf"(?:{_STRING}"
    r"|(?P<integer>-?(?:0|[1-9][0-9]*+)(?![\w.]))"
    r"|(?P<number>[+-]?[ \t]*+\.?[0-9](?:[eE][+-]|[A-Za-z0-9_.])*+)"
    rf"|(?P<word>[A-Za-z]++)|(?P<bracket>[\[({{])){_BLANK}",
    re.DOTALL,
)
_WORDS = {
    "True": "true", "False": "false", "None": "null",
    "true": "true", "false": "false", "null": "null",
}  # fmt: skip
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_JSON_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"')
_SPACE = re.compile(_BLANK)
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9])_(?=[0-9])")
_ESCAPE = re.compile(
    r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|N\{([^}]*)\}|(.))",
    re.DOTALL,
)
_ESCAPED = {
    "\n": "", "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b", "f": "\f", "n": "\n",
    "r": "\r", "t": "\t", "v": "\v",
}  # fmt: skip


class LiteralScanner:
    """Finds the end of a value: a comma or a bracket that no bracket or string holds.

    Attributes:
        is_done: the end is found.
        is_bad: the brackets do not match, or are nested too deeply.
    """

    def __init__(self) -> None:
        self.is_done = False
        self.is_bad = False
        self._open: list[str] = []
        self._quote = ""  # of the string that the text is in: one character, or three
        self._run = ""  # quotes that stand one after the other
        self._is_escaped = False

    def feed(self, text: str, at: int = 0) -> int:
        """Read from `at` on; return the place of the first character that was not read."""
        while at < len(text) and not self.is_done and not self.is_bad:
            at = self._read_quoted(text, at) if self._quote else self._read(text, at)
        return at

    def _read(self, text: str, at: int) -> int:
        char = text[at]
        if self._run:
            return self._read_run(char, at)
        match = (_PLAIN_IN_BRACKETS if self._open else _PLAIN).match(text, at)
        if match is not None:
            return match.end()
        if char in "'\"":
            self._run = char
        elif char in _OPENS:
            self._open.append(_CLOSES[_OPENS.index(char)])
            self.is_bad = len(self._open) > MAX_DEPTH
        elif char in ",)]}":
            return self._read_end(char, at)
        else:  # a line that goes on, or a comment: no literal
            self.is_bad = True
            return at
        return at + 1

    def _read_end(self, char: str, at: int) -> int:
        if not self._open:
            self.is_done = True
            return at
        if char == self._open[-1]:
            self._open.pop()
        elif char != ",":
            self.is_bad = True
            return at
        return at + 1

    def _read_run(self, char: str, at: int) -> int:
        """Behind one quote or two: a string begins, or an empty one has ended."""
        if char == self._run[0]:
            self._run += char
            if len(self._run) == 3:
                self._quote, self._run = self._run, ""
            return at + 1
        if len(self._run) == 1:
            self._quote = self._run
        self._run = ""
        return at

    def _read_quoted(self, text: str, at: int) -> int:
        char = text[at]
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        if char == "\\":
            self._is_escaped, self._run = True, ""
            return at + 1
        if char != self._quote[0]:
            self._run = ""
            match = _IN_STRING[self._quote[0]].match(text, at)
            return at + 1 if match is None else match.end()
        self._run += char
        if self._run == self._quote:
            self._quote = self._run = ""
        return at + 1


def to_json(text: str) -> str | None:
    """Write a literal as JSON; None: it is none, or has no JSON.

    What is JSON already, numbers and strings, stays as it is written.
    """
    try:
        return _Literal(text.strip(" \t\n\r\f")).to_json()
    except ValueError:
        return None


class _Literal:
    """The text of one value.

    Read here and not by Python's own parser, which takes far more than literals, and for some of
    it time and stack without bound.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def to_json(self) -> str:
        """Write it as JSON.

        Raises:
            ValueError: it is no literal, or has no JSON.
        """
        written = self._read_value(0)
        if self._at < len(self._text):
            raise ValueError("more than one value")
        return written

    def _read_value(self, depth: int) -> str:
        match = _VALUE.match(self._text, self._at)
        if match is None or depth > MAX_DEPTH:
            raise ValueError("no literal, or one nested too deeply")
        self._at = match.end()
        token = match[kind := match.lastgroup or ""]
        match kind:
            case "integer":
                return token
            case "string":
                return self._read_string(token)
            case "number":
                return _write_number(token)
            case "word" if token in _WORDS:
                return _WORDS[token]
            case "bracket":
                return self._read_brackets(token, depth + 1)
        raise ValueError("a name")

    def _read_brackets(self, bracket: str, depth: int) -> str:
        items: list[str] = []
        end, num_commas = _CLOSES[_OPENS.index(bracket)], 0
        while not self._take(end):
            if num_commas < len(items):
                raise ValueError("no comma")
            items.append(self._read_pair(depth) if bracket == "{" else self._read_value(depth))
            num_commas += self._take(",")
        if bracket == "{":
            return f"{{{', '.join(items)}}}"
        is_in_brackets = bracket == "(" and len(items) == 1 and not num_commas
        return items[0] if is_in_brackets else f"[{', '.join(items)}]"

    def _read_pair(self, depth: int) -> str:
        key = self._read_value(depth)
        if not key.startswith('"') or not self._take(":"):
            raise ValueError("a key that is no string, or a set")
        return f"{key}: {self._read_value(depth)}"

    def _read_string(self, token: str) -> str:
        """A string, or several that stand one after the other."""
        tokens = [token]
        while (match := _MORE.match(self._text, self._at)) is not None:
            tokens.append(match["string"])
            self._at = match.end()
        if len(tokens) == 1 and _JSON_STRING.fullmatch(token):
            return token if "\\ud" not in token.lower() else _write_string(json.loads(token))
        return _write_string("".join(map(_unquote, tokens)))

    def _take(self, mark: str) -> bool:
        """Go on behind a mark, and white space, if it comes next."""
        if self._text[self._at : self._at + 1] != mark:
            return False
        match = _SPACE.match(self._text, self._at + 1)
        self._at = self._at + 1 if match is None else match.end()
        return True


def _write_number(token: str) -> str:
    sign = "-" if token[0] == "-" else ""
    digits = _BETWEEN_DIGITS.sub("", token.lstrip("+-").lstrip())
    if _JSON_NUMBER.fullmatch(digits):
        if math.isinf(float(digits)):
            raise ValueError("a number that is too large")
        return sign + digits
    if digits[:2].lower() in {"0x", "0o", "0b"} or digits.isdigit():
        return sign + str(int(digits, 0))
    return sign + json.dumps(float(digits), allow_nan=False)


def _unquote(token: str) -> str:
    """What a literal of a string says."""
    prefix, token = (token[0], token[1:]) if token[0] in "rRuU" else ("", token)
    width = 3 if token[:3] in {"'''", '"""'} else 1
    text = token[width:-width]
    if "\\" not in text or prefix in {"r", "R"}:
        return text
    return _ESCAPE.sub(_unescape, text)


def _unescape(match: re.Match[str]) -> str:
    octal, *hexadecimal, name, char = match.groups()
    if octal:
        return chr(int(octal, 8))
    digits = next((each for each in hexadecimal if each), None)
    if digits:
        return chr(int(digits, 16))
    if name is not None:
        try:
            return unicodedata.lookup(name)
        except KeyError:
            raise ValueError("a character of an unknown name") from None
    if char in "xuUN":
        raise ValueError("an escape that is cut short")
    return _ESCAPED.get(char, match.group())  # Python keeps what it does not know


def _write_string(text: str) -> str:
    if any("\ud800" <= char <= "\udfff" for char in text):
        # Two halves are one character, as in JSON; a half alone is none.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    return json.dumps(text, ensure_ascii=False)
