"""Thinking, its budget and forced calls together, in a real server over a tiny random model.

The model babbles: whether and where its thinking ends, and what comes then, is the engine's doing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tiny import make_checkpoint
from tokenizers import AddedToken, Tokenizer

from tests.served import Process

from .test_end_to_end import serving_small
from .test_tools_end_to_end import NAMED, TOOLS, check_calls

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals")]

MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
# Thinks unless it is told not to; otherwise as plain as can be.
TEMPLATE = """\
{%- if tools %}<|im_start|>system
{%- for tool in tools %}{{ tool.function.name }}: {{ tool.function.description }}{% endfor %}
<tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content or '' }}
{%- for call in m.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% else %}<think>
{% endif %}{% endif %}"""
MESSAGES: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("thinker")
    make_checkpoint("qwen3", folder / "model", max_position_embeddings=1024)
    tokenizer = Tokenizer.from_file(str(folder / "model/tokenizer.json"))
    tokenizer.add_tokens([AddedToken(text, special=False) for text in MARKERS[:2]])
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in MARKERS[2:]])
    tokenizer.save(str(folder / "model/tokenizer.json"))
    settings = folder / "model/tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": TEMPLATE}))
    with serving_small(folder / "model", folder) as process:
        yield process


@pytest.fixture(scope="module")
def client(process: Process) -> Iterator[openai.OpenAI]:
    with process.client() as client:
        yield client


def ask(client: openai.OpenAI, budget: int | None = None, **options: Any) -> Any:
    extra = {} if budget is None else {"thinking_token_budget": budget}
    return client.chat.completions.create(
        model="small",
        messages=MESSAGES,
        extra_body={**extra, **options.pop("extra_body", {})},
        **{"max_completion_tokens": 300, "temperature": 1, "seed": 3, **options},
    )


@pytest.mark.parametrize("budget", [0, 5, 40])
def test_budget_ends_the_thinking(client: openai.OpenAI, budget: int) -> None:
    reply = ask(client, budget, extra_body={"ignore_eos": True})
    choice = reply.choices[0]
    assert reply.usage.completion_tokens_details.reasoning_tokens <= budget
    assert choice.finish_reason == "length"
    assert choice.message.content
    assert "</think>" not in (choice.message.content[:8])
    assert bool(getattr(choice.message, "reasoning", "")) is (budget > 0)


def test_budget_leaves_room(client: openai.OpenAI) -> None:
    reply = ask(client, 1000, max_completion_tokens=40, extra_body={"ignore_eos": True})
    assert reply.usage.completion_tokens == 40
    assert reply.usage.completion_tokens_details.reasoning_tokens <= 19
    assert reply.choices[0].message.content


def test_without_a_budget_it_thinks_on(client: openai.OpenAI) -> None:
    bias = {"257": -100, "258": -100, "260": -100, "261": -100}  # nothing that ends a thought
    reply = ask(client, max_completion_tokens=60, logit_bias=bias)
    assert reply.choices[0].message.content == ""
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens_details.reasoning_tokens > 50


@pytest.mark.parametrize("effort", ["none", None])
@pytest.mark.parametrize("seed", range(3))
def test_forced_call_comes_after_the_thinking(
    client: openai.OpenAI, effort: str | None, seed: int
) -> None:
    options: dict[str, Any] = {"tools": TOOLS, "seed": seed, "max_completion_tokens": 700}
    if effort is not None:
        options["reasoning_effort"] = effort
    named = ask(client, 20, tool_choice=NAMED, **options)
    assert check_calls(named.choices[0]) == ["weather"]
    required = ask(client, 20, tool_choice="required", parallel_tool_calls=False, **options)
    assert len(check_calls(required.choices[0])) == 1
    for reply in (named, required):
        message = reply.choices[0].message
        assert message.content is None
        details = reply.usage.completion_tokens_details
        assert (details.reasoning_tokens > 0) is (effort is None)
        assert details.reasoning_tokens <= 20 + 3  # a grammar lets a character end first
