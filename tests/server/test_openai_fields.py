"""Every property of OpenAI's two requests: served, without effect, or refused by its name.

The names are written down here, as the published description has them, so that one that OpenAI
adds is seen when the list is looked through, and one that we drop is seen at once.
"""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Running, StartServer

SERVED = "served"  # it changes the answer, or what is told of it; other tests say how
WITHOUT_EFFECT = "without effect"  # it is taken, and says nothing that the client could see

# Of each property: its lot, a value that is taken, and one that is not, if there is one.
CHAT: dict[str, tuple[str, Any, Any]] = {
    "audio": ("refused", None, {"voice": "alloy", "format": "wav"}),
    "frequency_penalty": (SERVED, 0.5, "x"),
    "function_call": (SERVED, "none", {"name": "f"}),  # without `functions`
    "functions": (SERVED, [], [{"name": "f x"}]),
    "logit_bias": (SERVED, {"65": 1}, {"x": 1}),
    "logprobs": (SERVED, True, 1),
    "max_completion_tokens": (SERVED, 5, 0),
    "max_tokens": (SERVED, 5, 0),
    "messages": (SERVED, [{"role": "user", "content": "Hi"}], []),
    "metadata": (WITHOUT_EFFECT, {"a": "b"}, None),
    "modalities": ("refused", ["text"], ["audio"]),
    "model": (SERVED, "toy", "other"),
    "moderation": ("refused", None, {"model": "omni"}),
    "n": (SERVED, 2, 0),
    "parallel_tool_calls": (SERVED, True, "x"),
    "prediction": (WITHOUT_EFFECT, {"type": "content", "content": "a"}, None),
    "presence_penalty": (SERVED, 0.5, "x"),
    "prompt_cache_key": (WITHOUT_EFFECT, "a", None),
    "prompt_cache_options": (WITHOUT_EFFECT, {"mode": "auto"}, None),
    "prompt_cache_retention": (WITHOUT_EFFECT, "24h", None),
    "reasoning_effort": (SERVED, None, "extreme"),  # the model of these tests does not think
    "response_format": (SERVED, {"type": "text"}, {"type": "xml"}),
    "safety_identifier": (WITHOUT_EFFECT, "a", None),
    "seed": (SERVED, 7, "x"),
    "service_tier": ("refused", "auto", "priority"),
    "stop": (SERVED, ["x"], [""]),
    "store": ("refused", False, True),
    "stream": (SERVED, False, "x"),
    "stream_options": (SERVED, None, {"include_usage": True}),  # without `stream`
    "temperature": (SERVED, 0.5, 3),
    "tool_choice": (SERVED, "none", "x"),
    "tools": (SERVED, None, [{"type": "web_search"}]),
    "top_logprobs": (SERVED, None, 2),  # without `logprobs`
    "top_p": (SERVED, 0.5, "x"),
    "user": (WITHOUT_EFFECT, "a", None),
    "verbosity": ("refused", "medium", "high"),
    "web_search_options": ("refused", None, {"search_context_size": "low"}),
}
COMPLETIONS: dict[str, tuple[str, Any, Any]] = {
    "best_of": (SERVED, 1, 0),
    "echo": (SERVED, True, "x"),
    "frequency_penalty": (SERVED, 0.5, "x"),
    "logit_bias": (SERVED, {"65": 1}, {"x": 1}),
    "logprobs": (SERVED, 1, 21),
    "max_tokens": (SERVED, 5, -1),
    "model": (SERVED, "toy", "other"),
    "n": (SERVED, 2, 0),
    "presence_penalty": (SERVED, 0.5, "x"),
    "prompt": (SERVED, "a", []),
    "seed": (SERVED, 7, "x"),
    "stop": (SERVED, "x", [""]),
    "stream": (SERVED, False, "x"),
    "stream_options": (SERVED, None, {"include_usage": True}),
    "suffix": (SERVED, "", "x"),  # the model of these tests fills no gaps
    "temperature": (SERVED, 0.5, 3),
    "top_p": (SERVED, 0.5, "x"),
    "user": (WITHOUT_EFFECT, "a", None),
}
ROWS = [("chat", name, *row) for name, row in CHAT.items()] + [
    ("complete", name, *row) for name, row in COMPLETIONS.items()
]


@pytest.mark.parametrize(("endpoint", "name", "lot", "good", "bad"), ROWS)
async def test_lot_of_each(
    start: StartServer, endpoint: str, name: str, lot: str, good: Any, bad: Any
) -> None:
    server = await start()
    response = await getattr(server, endpoint)(**{name: good})
    assert response.status_code == 200, response.text
    assert "X-Llmplug-Ignored" not in response.headers
    if lot == WITHOUT_EFFECT:
        await compare_with_none(server, endpoint)
        return
    response = await getattr(server, endpoint)(**{name: bad})
    error = response.json()["error"]
    assert response.status_code == (404 if name == "model" else 400), error
    assert error["param"].startswith(name)
    assert name in error["message"]
    if lot == "refused":
        assert error["code"] == "unsupported_parameter"
    assert len(server.engine.requests) == 1


async def compare_with_none(server: Running, endpoint: str) -> None:
    """The engine is asked for the same as without the field."""
    await getattr(server, endpoint)()
    first, second = server.engine.requests
    assert (first.prompt_ids, first.sampling) == (second.prompt_ids, second.sampling)
