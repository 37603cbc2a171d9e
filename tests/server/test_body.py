"""JSON and the path in its errors."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmplug.errors import InvalidRequest
from llmplug.server.body import read_json, write_path
from llmplug.server.schema.messages import read_messages
from llmplug.server.schema.prompts import read_prompts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
OBJECTS = st.dictionaries(st.text(st.characters(codec="utf-8")), JSON)


@given(OBJECTS)
def test_reads_what_the_standard_library_writes(fields: dict[str, object]) -> None:
    try:
        body = json.dumps(fields, ensure_ascii=False).encode()
    except (UnicodeEncodeError, ValueError):
        return  # lone surrogates and infinities: test_errors refuses them
    if "Infinity" in body.decode():
        return
    assert read_json(body) == fields


def test_the_last_of_duplicate_keys_wins() -> None:
    assert read_json(b'{"a": 1, "a": 2}') == {"a": 2}


@given(st.binary(max_size=50))
def test_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        fields = read_json(body)
    except InvalidRequest:
        return
    assert isinstance(fields, dict)


@given(JSON)
def test_messages_and_prompts_are_read_or_refused(raw: object) -> None:
    """Whatever JSON holds, the answer is a value or an InvalidRequest that says where."""
    for read, root in ((read_messages, "messages"), (read_prompts, "prompt")):
        for value in (raw, [raw], [{"role": "user", "content": raw}]):
            assert (refused_param(read, value) or root).startswith(root)


def refused_param(read: Callable[[object], object], value: object) -> str | None:
    try:
        read(value)
    except InvalidRequest as error:
        return error.param or "nowhere"
    return None


@pytest.mark.parametrize(
    ("location", "path"),
    [
        (("temperature",), "temperature"),
        (("messages", 0, "content"), "messages[0].content"),
        (("prompt", 2, 5), "prompt[2][5]"),
        (("stream_options", "include_usage"), "stream_options.include_usage"),
    ],
)
def test_paths_are_written_as_openai_does(location: tuple[str | int, ...], path: str) -> None:
    assert write_path(location) == path
