"""Files whose names are made to lead somewhere."""

from __future__ import annotations

import re
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmplug.attack.attacks import attack
from llmplug.conformance.checks import NotOffered, expect, expect_refused

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker
    from llmplug.conformance.target import Answer

FILES = "/v1/files"
BOUNDARY = b"a-boundary"
TEMPORARY = tempfile.gettempdir()
CONTENT = b'{"custom_id": "1"}\n'
NAMES = (
    b"../../../../../../etc/cron.d/%b",
    b"..\\..\\..\\Windows\\%b",
    b"....//....//%b",
    b"%%2e%%2e%%2f%b",
    TEMPORARY.encode() + b"/%b",
    b"file://" + TEMPORARY.encode() + b"/%b",
    b"%b\0.jsonl",
    b"C:\\%b",
    b"CON",
    b".",
    b"..",
    b"-rf",
    b"$(id)",
    b"%b\r\nX-Injected: 1",
    b"%b\xe2\x80\xae",  # what follows runs from right to left
    b"\xff\xfe%b",
    b" ",
    b"<script>%b",
    b"x" * 3000 + b"%b",
)
IDS = re.compile(r"[A-Za-z0-9_-]{8,128}")


@attack("uploads")
def names_that_lead_elsewhere(attacker: Attacker) -> None:
    """A file's name is a label: where it is kept, and what it is called by, are the server's."""
    plain = _upload(attacker, b"plain.jsonl")
    if plain.status in (404, 405, 501):
        raise NotOffered
    expect(plain.status == 200, f"a plain name: status {plain.status}: {plain.body[:80]!r}")
    _expect_kept(attacker, plain.json())
    mark = f"llmplug-attack-{uuid.uuid4().hex}"
    for name in NAMES:
        answer = _upload(attacker, name.replace(b"%b", mark.encode()).replace(b"%%", b"%"))
        expect("x-injected" not in answer.headers, f"{name[:40]!r} writes a header")
        if answer.status == 200:
            _expect_kept(attacker, answer.json())
        else:
            expect_refused(answer, answer.status)
    # Of a server on this machine it can be seen.
    for folder in (Path(TEMPORARY), Path("/etc/cron.d"), Path()):
        expect(not list(folder.glob(f"*{mark}*")), f"a file is in {folder}")


@attack("uploads")
def forms_that_are_none(attacker: Attacker) -> None:
    """A form without an end, with parts that come twice or with thousands of them is refused."""
    if _upload(attacker, b"").status in (404, 405, 501):
        raise NotOffered
    part = b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\nx\r\n'
    end = b"--%b--\r\n" % BOUNDARY
    for body in (
        b"x",
        part % (BOUNDARY, b"purpose"),
        part % (BOUNDARY, b"purpose") * 2 + end,
        b"".join(part % (BOUNDARY, b"field %d" % i) for i in range(20_000)) + end,
        part % (BOUNDARY, b"x" * 2**20) + end,
        b"--%b\r\n\r\n\r\n" % BOUNDARY + end,
        b"\r\n--" * 500_000,
    ):
        expect_refused(_send(attacker, body), 400, 413, 422)


def _expect_kept(attacker: Attacker, file: Any) -> None:
    """A file that was taken has an id of the server's making, holds what was sent, and goes."""
    file_id = file.get("id")
    is_ours = isinstance(file_id, str) and IDS.fullmatch(file_id) is not None
    expect(is_ours, f"the file's id is {file_id!r}")
    held = attacker.ask("GET", f"{FILES}/{file_id}/content")
    expect(held.body == CONTENT, f"it holds {held.body[:80]!r}")
    expect("x-injected" not in held.headers, "its name writes a header")
    deleted = attacker.ask("DELETE", f"{FILES}/{file_id}")
    expect(deleted.status == 200, f"it cannot be deleted: status {deleted.status}")


def _upload(attacker: Attacker, name: bytes) -> Answer:
    """Upload a small file under a name."""
    disposition = b'Content-Disposition: form-data; name="%b"'
    parts = (
        disposition % b"purpose" + b"\r\n\r\nbatch",
        disposition % b"file" + b'; filename="%b"\r\n\r\n' % name + CONTENT,
    )
    body = b"".join(b"--%b\r\n%b\r\n" % (BOUNDARY, part) for part in parts)
    return _send(attacker, body + b"--%b--\r\n" % BOUNDARY)


def _send(attacker: Attacker, body: bytes) -> Answer:
    kind = f"multipart/form-data; boundary={BOUNDARY.decode()}"
    return attacker.ask("POST", FILES, body, content_type=kind)


ATTACKS = (names_that_lead_elsewhere, forms_that_are_none)
