"""`suffix`: the model is asked for what stands between two texts."""

from __future__ import annotations

from typing import Any

import pytest

from llmplug.chat.tokenizer import Tokenizer
from llmplug.specs import TokenizerFiles
from llmplug.types import SamplingParams

from . import conftest
from .conftest import StartServer
from .fake_engine import EOS, TOKENIZER, ids_of

MARKERS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>")


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    """The tests' own one, with tokens that fill gaps."""
    library = type(TOKENIZER.library).from_str(TOKENIZER.library.to_str())
    library.add_special_tokens(list(MARKERS))
    tokenizer = Tokenizer(TokenizerFiles(json=library.to_str(), eos_token=EOS))
    monkeypatch.setattr(conftest, "TOKENIZER", tokenizer)
    return tokenizer


async def test_a_gap_is_asked_for(start: StartServer, tokenizer: Tokenizer) -> None:
    server = await start()
    body = (await server.complete(prompt="ab", suffix="cd", stop_token_ids=[3])).json()
    assert body["choices"][0]["text"] == "Hello world"
    request = server.engine.requests[0]
    prefix, suffix, middle, pad = (tokenizer.id_of(text) for text in MARKERS)
    assert request.prompt_ids == [prefix, *ids_of("ab"), suffix, *ids_of("cd"), middle]
    assert request.sampling.stop_token_ids == (3, pad)


async def test_several_prompts_share_a_suffix(start: StartServer, tokenizer: Tokenizer) -> None:
    server = await start()
    response = await server.complete(prompt=["a", "b" * 3000], suffix="c", stream=True)
    assert response.status_code == 200
    lengths = sorted(len(request.prompt_ids) for request in server.engine.requests)
    assert lengths == [1 + 1 + 3, 3000 + 1 + 3]


async def test_an_empty_suffix_asks_for_nothing(start: StartServer, tokenizer: Tokenizer) -> None:
    server = await start()
    await server.complete(prompt="ab", suffix="")
    request = server.engine.requests[0]
    assert request.prompt_ids == ids_of("ab")
    assert request.sampling == SamplingParams(max_tokens=16)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ids_of("ab")},
        {"prompt": "ab", "echo": True},
        {"prompt": "ab", "truncate_prompt_tokens": 5},
        {"prompt": "ab", "overflow": "truncate"},
    ],
)
async def test_what_a_gap_cannot_be_joined_with(
    start: StartServer, tokenizer: Tokenizer, fields: dict[str, Any]
) -> None:
    server = await start()
    response = await server.complete(suffix="cd", **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "suffix"
