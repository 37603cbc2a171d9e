"""Instructor, in each of its ways to ask for a form."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

instructor = pytest.importorskip("instructor")
openai = pytest.importorskip("openai")

pytestmark = pytest.mark.slow
MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]


class Town(BaseModel):
    """A town."""

    model_config = ConfigDict(extra="forbid")

    name: Literal["Paris", "Oslo"]
    inhabitants: Literal["few", "many"]


@pytest.mark.parametrize(
    "mode", ["TOOLS", "TOOLS_STRICT", "JSON_SCHEMA", "RESPONSES_TOOLS", "FUNCTIONS"]
)
def test_form(server: Any, mode: str) -> None:
    client = openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0)
    town = instructor.from_openai(client, mode=instructor.Mode[mode]).create(
        model="chat", messages=MESSAGES, response_model=Town, temperature=0, max_retries=0
    )
    assert isinstance(town, Town)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
async def test_partial_form(server: Any, mode: str) -> None:
    client = openai.AsyncOpenAI(base_url=server.url, api_key=server.key, max_retries=0)
    patched = instructor.from_openai(client, mode=instructor.Mode[mode])
    parts = [
        part
        async for part in patched.create_partial(
            model="chat", messages=MESSAGES, response_model=Town, temperature=0
        )
    ]
    assert len(parts) > 1
    assert Town.model_validate(parts[-1].model_dump())
