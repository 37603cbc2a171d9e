"""Pictures and sounds that explode when they are decoded, lie about themselves, or look otherwise.

They come in the request itself, as text; addresses that one holds are in doors.py.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from llmplug.attack.attacker import CHAT, MESSAGES, RESPONSES
from llmplug.attack.attacks import attack
from llmplug.conformance.checks import expect, expect_refused

if TYPE_CHECKING:
    from llmplug.attack.attacker import Attacker
    from llmplug.conformance.target import Answer

GRAY, PALETTE, RGB, RGBA = 0, 3, 2, 6  # colour types of a PNG
BOMB_BYTES = 128 * 2**20  # of what comes out of a few kilobytes
NUM_FRAMES = 50_000
MAX_U32 = 2**32 - 1
PATIENCE = 4  # a server that reads pictures may decode one before it refuses it


@attack("media")
def pictures_that_explode(attacker: Attacker) -> None:
    """Pictures of one point or of billions, cut off or without end of frames end nobody."""
    for kind, data in _make_pictures():
        _send_picture(attacker, kind, data)


@attack("media")
def sounds_and_films_that_explode(attacker: Attacker) -> None:
    """What a file says of its own length, rate and frames is not believed, nor made room for."""
    for kind, data in _make_sounds():
        encoded = base64.b64encode(data).decode()
        url = f"data:{kind};base64,{encoded}"
        shape = kind.partition("/")[2]
        for part in (
            {"type": "input_audio", "input_audio": {"data": encoded, "format": shape}},
            {"type": "audio_url", "audio_url": {"url": url}},
            {"type": "video_url", "video_url": {"url": url}},
            {"type": "file", "file": {"filename": f"x.{shape}", "file_data": url}},
        ):
            said = [{"role": "user", "content": [part]}]
            _expect_read_or_refused(attacker.patient(PATIENCE).send(CHAT, messages=said), CHAT)
        content = [{"type": "input_file", "filename": f"x.{shape}", "file_data": url}]
        said = [{"role": "user", "content": content}]
        _expect_read_or_refused(attacker.patient(PATIENCE).send(RESPONSES, input=said), RESPONSES)


@attack("media")
def pictures_that_look_otherwise(attacker: Attacker) -> None:
    """A model is shown what people see: a turned or see-through picture is no other than its twin.

    Both are refused, or both are answered alike.
    """
    for one, other in _make_twins():
        answers = [
            attacker.patient(PATIENCE).send(
                CHAT,
                messages=[{"role": "user", "content": [_picture_part("image/png", each)]}],
                temperature=0,
            )
            for each in (one, other)
        ]
        first, second = (each.status for each in answers)
        expect(first == second, f"one is answered with {first}, its twin with {second}")
        if first == 200:
            texts = [each.json()["choices"][0]["message"]["content"] for each in answers]
            expect(texts[0] == texts[1], f"{texts[0]!r} is said of one, {texts[1]!r} of its twin")
        else:
            _expect_read_or_refused(answers[0], CHAT)


def _send_picture(attacker: Attacker, kind: str, data: bytes) -> None:
    encoded = base64.b64encode(data).decode()
    patient = attacker.patient(PATIENCE)
    said: list[dict[str, Any]] = [{"role": "user", "content": [_picture_part(kind, data)]}]
    _expect_read_or_refused(patient.send(CHAT, messages=said), CHAT)
    image = {"type": "input_image", "image_url": f"data:{kind};base64,{encoded}"}
    said = [{"role": "user", "content": [image]}]
    _expect_read_or_refused(patient.send(RESPONSES, input=said), RESPONSES)
    source = {"type": "base64", "media_type": kind, "data": encoded}
    said = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    _expect_read_or_refused(patient.send(MESSAGES, messages=said), MESSAGES)


def _picture_part(kind: str, data: bytes) -> dict[str, Any]:
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _expect_read_or_refused(answer: Answer, path: str) -> None:
    """It is answered, or refused with the name of the field that holds it."""
    if answer.status != 200:
        named = {CHAT: "messages", RESPONSES: "input"}.get(path)
        expect_refused(answer, answer.status, param=named)


def _make_pictures() -> Iterator[tuple[str, bytes]]:
    point = make_png(1, 1, GRAY, b"\0\xff")
    yield "image/png", point
    yield "image/png", point[:-20]
    yield "image/png", b""
    yield "image/png", b"no picture"
    yield "image/jpeg", point  # which it is not
    yield "image/png", make_png(0, 0, GRAY, b"")
    yield "image/png", make_png(60_000, 60_000, GRAY, b"\0")
    yield "image/png", make_png(2**31 - 1, 2**31 - 1, RGBA, b"\0")
    yield "image/png", _bomb()
    yield "image/png", make_png(2, 2, PALETTE, b"\0\xff\xff" * 2)  # colours that it lacks
    yield "image/gif", _make_film_strip()
    size = struct.pack(">BHHB", 8, 65_535, 65_535, 3)
    yield "image/jpeg", b"\xff\xd8\xff\xc0" + struct.pack(">H", 17) + size + bytes(9) + b"\xff\xda"
    box = b"\0\0\0\x0a" + struct.pack(">H", 100)
    yield "image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc"/>'
    yield "image/tiff", b"MM\0*\0\0\0\x08" + box + b"\0\0\0\x08"  # its next page is itself


def _make_sounds() -> Iterator[tuple[str, bytes]]:
    head = struct.pack("<HHIIHH", 1, 65_535, MAX_U32, MAX_U32, 65_535, 32)
    wave = b"RIFF" + struct.pack("<I", MAX_U32) + b"WAVEfmt " + struct.pack("<I", len(head)) + head
    yield "audio/wav", wave + b"data" + struct.pack("<I", MAX_U32) + bytes(64)
    yield "audio/wav", wave[:14]
    # 4096 samples a block, at 1 Hz, 2 ** 36 - 1 samples in all
    rate = (1 << 44 | 1 << 41 | 15 << 36 | (1 << 36) - 1).to_bytes(8, "big")
    stream = struct.pack(">HH", 4096, 4096) + bytes(6) + rate + bytes(16)
    yield "audio/flac", b"fLaC\x80\0\0\x22" + stream
    page = b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead\1\xff" + bytes(9)
    yield "audio/ogg", page * 1000
    sizes = struct.pack(">III", 0, 1, MAX_U32)
    yield "video/mp4", b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x14stsz" + sizes
    yield "video/mp4", b"\0\0\0\1moov" + struct.pack(">Q", 2**64 - 1)
    yield "video/jpeg", b",".join([b"/9j/"] * NUM_FRAMES)


def _make_twins() -> Iterator[tuple[bytes, bytes]]:
    """Pictures of which people see the same, written down in two ways."""
    wide = b"".join(b"\0" + b"\xff\0\0" * 16 + b"\0\0\xff" * 16 for _ in range(16))
    # Red left of blue, turned by 90 degrees: red above blue.
    turned = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    tall = b"".join(b"\0" + colour * 16 for colour in [b"\xff\0\0"] * 16 + [b"\0\0\xff"] * 16)
    yield make_png(32, 16, RGB, wide, (b"eXIf", turned)), make_png(16, 32, RGB, tall)
    unseen = b"".join(b"\0" + b"\xff\0\0\0" * 16 for _ in range(16))  # red, of no opacity
    white = b"".join(b"\0" + b"\xff\xff\xff" * 16 for _ in range(16))
    yield make_png(16, 16, RGBA, unseen), make_png(16, 16, RGB, white)


def make_png(
    width: int, height: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]
) -> bytes:
    """Write a PNG of eight bits a channel.

    Args:
        rows: each with its filter byte before it; too few: it is cut off.
        chunks: further ones, as name and data.
    Source: https://www.w3.org/TR/png-3/
    """
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


@cache
def _bomb() -> bytes:
    """A picture of few bytes that are many when they are unpacked, as large as it says."""
    side = 16_384
    return make_png(side, BOMB_BYTES // (side + 1), GRAY, bytes(BOMB_BYTES))


def _make_film_strip() -> bytes:
    """A GIF of one point and of very many frames."""
    frame = b"!\xf9\4\0\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * NUM_FRAMES + b";"


ATTACKS = (
    pictures_that_explode,
    sounds_and_films_that_explode,
    pictures_that_look_otherwise,
)
