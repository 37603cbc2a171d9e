"""The examples are distributions of their own: built, installed, tested, and asked over HTTP.

A server of an environment with their wheels takes a model, a kernel, a sampler and a dialect from
them, all at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tiny import EOS_ID, make_tokenizer

from tests.packaging.projects import ROOT, Environment, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

EXAMPLES = {
    path.parent.name: f"example_{path.parent.name.replace('-', '_')}"
    for path in sorted((ROOT / "examples").glob("*/pyproject.toml"))
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}, "is_long": {"type": "boolean"}},
            "required": ["city", "is_long"],
        },
    },
}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies, so that nothing of the sources is in reach and nothing is written among them."""
    home = tmp_path_factory.mktemp("examples")
    ignore = shutil.ignore_patterns("__pycache__", ".*_cache", ".hypothesis", "build", "dist")
    for name in EXAMPLES:
        shutil.copytree(ROOT / "examples" / name, home / name, ignore=ignore)
    return {name: home / name for name in EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_passes_its_own_tests(
    name: str, projects: dict[str, Path], environment: Environment
) -> None:
    shutil.rmtree(projects[name] / EXAMPLES[name])  # what is installed is tested
    options = ["-q", "-p", "no:langsmith_plugin", "-p", "no:asyncio"]  # only we have these
    pytest_here = [environment.python, "-m", "pytest", *options]
    output = run(*pytest_here, cwd=projects[name], OMP_NUM_THREADS="1")
    assert " passed" in output
    assert "skipped" not in output


def test_all_are_listed_as_ok(environment: Environment) -> None:
    listed = {plugin["name"]: plugin for plugin in environment.list_plugins()}
    for name, package in EXAMPLES.items():
        plugin = listed[package]
        assert (plugin["state"], plugin["distribution"]) == ("ok", f"example-{name}"), plugin
    environment.llmplug("plugins", "--check")


# --- over HTTP ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    """Write a tiny OLMoE with the dialect's tokens and no template; return transformers' model."""
    from transformers import OlmoeConfig, OlmoeForCausalLM

    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=263,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=1024,
        initializer_range=0.2,
        eos_token_id=EOS_ID,
        pad_token_id=None,
    )
    model = OlmoeForCausalLM(config).float().eval()
    model.save_pretrained(folder / "olmoe")
    make_tokenizer(folder / "olmoe")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / "olmoe" / name).read_text()
        text = text.replace("<|im_start|>", "<|says|>").replace("<|im_end|>", "<|over|>")
        (folder / "olmoe" / name).write_text(text)
    settings = json.loads((folder / "olmoe" / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (folder / "olmoe" / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


@pytest.fixture(scope="module")
def served(environment: Environment, reference: Any, folder: Path) -> Iterator[httpx.Client]:
    model = {
        "source": str(folder / "olmoe"),
        "name": "tiny",
        "device": "cpu",
        "dtype": "float32",
        # As exact as what it is compared with.
        "weights": {"format": "float32"},
        "cache": {"memory": "16MiB", "dtype": "float32"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        with environment.serve({"models": [model]}, folder) as client:
            yield client


def ask(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Return the message of a chat's answer."""
    body = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, **fields}
    reply = client.post("/v1/chat/completions", json={"model": "tiny", **body})
    assert reply.status_code == 200, reply.text
    message: dict[str, Any] = reply.json()["choices"][0]["message"]
    return message


def stream(client: httpx.Client, **fields: Any) -> dict[str, str]:
    """Return what a streamed answer says, by field, with the arguments of its calls."""
    body = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, **fields}
    body |= {"model": "tiny", "stream": True}
    said = {"content": "", "reasoning": "", "arguments": ""}
    with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        assert reply.status_code == 200, reply.read()
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                delta = choice["delta"]
                said["content"] += delta.get("content") or ""
                said["reasoning"] += delta.get("reasoning_content") or ""
                for call in delta.get("tool_calls") or ():
                    said["arguments"] += call["function"].get("arguments") or ""
    return said


def test_a_server_takes_its_parts_from_them(served: httpx.Client, folder: Path) -> None:
    told = (folder / "log").read_text()
    assert "example_rms_norm" in told
    fields = {each["name"]: each for each in served.get("/v1/samplers").json()["data"]}
    assert "example_phrases" in fields


@torch.inference_mode()
def test_the_model_computes_what_transformers_computes(
    served: httpx.Client, reference: Any
) -> None:
    body = {"model": "tiny", "prompt": "The tide", "max_tokens": 20, "temperature": 0}
    reply = served.post("/v1/completions", json={**body, "return_token_ids": True}).json()
    ids = reply["choices"][0]["prompt_token_ids"]
    for token_id in reply["choices"][0]["token_ids"]:
        assert token_id == int(reference(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token_id)
    assert len(ids) > len("The tide")


def test_answers_are_steered_by_phrases_alone_and_together(served: httpx.Client) -> None:
    phrases = ["to be precise", "§ 12", "über"]
    asked = [{"example_phrases": {each: 1000.0}, "max_tokens": 30} for each in phrases]
    alone = [ask(served, **each)["content"] for each in asked]
    for phrase, content in zip(phrases, alone, strict=True):
        assert content.startswith(phrase)
    with ThreadPoolExecutor(len(asked)) as pool:
        together = pool.map(lambda each: stream(served, **each)["content"], asked)
        assert list(together) == alone
    away = ask(served, max_tokens=30, example_phrases={alone[0][:6]: -1000.0})["content"]
    assert not away.startswith(alone[0][:6])


def test_thoughts_are_told_from_answers(served: httpx.Client) -> None:
    said = "<aside>They greet.</aside>Hello!"
    asked = {"example_phrases": {said: 1000.0}, "max_tokens": len(said)}
    message = ask(served, **asked)
    assert (message["reasoning_content"], message["content"]) == ("They greet.", "Hello!")
    streamed = stream(served, **asked)
    assert (streamed["reasoning"], streamed["content"]) == ("They greet.", "Hello!")


def test_forced_calls_keep_to_the_dialect_and_the_schema(served: httpx.Client) -> None:
    asked = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 200}
    message = ask(served, parallel_tool_calls=False, **asked)
    (call,) = message["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert call["function"]["name"] == "get_weather"
    assert arguments["city"] in ("Paris", "Rome")
    assert isinstance(arguments["is_long"], bool)
    streamed = stream(served, parallel_tool_calls=False, **asked)
    assert streamed["arguments"] == call["function"]["arguments"]
