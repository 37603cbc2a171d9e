"""Bodies that are no JSON, or that JSON's readers trip over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llmplug.attack.attacker import COMPLETIONS, GENERATING, WHOLESOME
from llmplug.attack.attacks import attack
from llmplug.conformance.checks import expect

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker

DEPTH = 100_000
TOO_LARGE = 48 * 2**20
MALFORMED = (
    b"",
    b"{",
    b"\0",
    b"null",
    b"[]",
    b'"text"',
    b"1",
    b'{"model": }',
    b"{'model': 1}",
    b'{"model": "\xff\xfe"}',
    b"\xef\xbb\xbf{}",
    b'{"a": 1}{"a": 1}',
    b'{"a": 01}',
    b'{"a": 1e999}',
    b'{"a": NaN}',
    b'{"a": "\x01"}',
    b"[" * DEPTH,
    b'{"a":' * DEPTH,
    b"[" * DEPTH + b"]" * DEPTH,
    b'{"model": ' + b"[" * DEPTH + b"]" * DEPTH + b"}",
)
MEDIA_TYPES = ("text/plain", "", "application/x-www-form-urlencoded", "application/jsonp", "\t")


@attack("bodies")
def no_json(attacker: Attacker) -> None:
    """A body that is no JSON object is a 400."""
    for path in GENERATING:
        for body in MALFORMED:
            answer = attacker.ask("POST", path, body)
            expect(answer.status == 400, f"{path} {body[:20]!r}: status {answer.status}")


@attack("bodies")
def odd_json(attacker: Attacker) -> None:
    """Numbers of many digits, halves of characters, keys that come twice: refused or harmless."""
    model = json.dumps(attacker.target.model).encode()
    for prompt in (
        rb'"\ud800"',
        rb'"\udc00\ud800"',
        rb'"\u0000"',
        b"1" * 100_000,
        b"-" + b"9" * 5000,
        b"1e" + b"9" * 5000,
        b'"a", "prompt": "b"',
        b'"a", "prompt": {}',
        b'"a", "max_tokens": ' + b"9" * 5000,
        b'"a", "seed": 1' + b"0" * 5000,
        b'"a", "temperature": 0.' + b"0" * 100_000 + b"1",
    ):
        attacker.ask("POST", COMPLETIONS, b'{"model": %b, "prompt": %b}' % (model, prompt))


@attack("bodies")
def deep_values(attacker: Attacker) -> None:
    """Values in values in values, as deep as JSON lets them be, end nobody."""
    for depth in (100, 400, 900, 5000):
        nested = b"[" * depth + b"]" * depth
        mapped = b'{"a":' * depth + b"1" + b"}" * depth
        for field, value in (
            (b"messages", nested),
            (b"metadata", mapped),
            (b"tools", nested),
            (b"chat_template_kwargs", mapped),
            (b"response_format", mapped),
            (b"stop", nested),
        ):
            head = json.dumps({"model": attacker.target.model, **WHOLESOME[GENERATING[0]]}).encode()
            body = head[:-1] + b', "%b": %b}' % (field, value)
            attacker.ask("POST", GENERATING[0], body)


@attack("bodies")
def other_media_types(attacker: Attacker) -> None:
    """What a browser sends from any page without asking is no request: a 415."""
    body = {"model": attacker.target.model, **WHOLESOME[COMPLETIONS]}
    for media_type in MEDIA_TYPES:
        answer = attacker.ask("POST", COMPLETIONS, body, content_type=media_type)
        expect(answer.status == 415, f"{media_type!r}: status {answer.status}")


@attack("bodies")
def too_large(attacker: Attacker) -> None:
    """A body of 48 MiB is refused, and not kept."""
    for path in GENERATING:
        body = b'{"model": "' + b"x" * TOO_LARGE + b'"}'
        answer = attacker.patient(10).ask("POST", path, body)
        expect(answer.status == 413, f"{path}: status {answer.status}")


ATTACKS = (no_json, odd_json, deep_values, other_media_types, too_large)
