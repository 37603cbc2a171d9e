"""Renderers of made-up families and templates, and transformers' of the same."""

from __future__ import annotations

import functools
from typing import Any

from hypothesis import strategies as st

from llmplug.chat.render import ChatRenderer
from llmplug.chat.tokenizer import Tokenizer

from .dialects import DIALECTS
from .vocabularies import CONTROL, build, cached, reference_of

Messages = list[dict[str, Any]]

HARMLESS = "word"
ROLES = ["user", "assistant", "user", "assistant"]
# Tokens of every synthetic vocabulary, whole and in parts, and what templates cut texts at.
SPELLED = [*CONTROL, "<|IM_START|>", "<s>", "</s>", "<left>", "<right>", "<alone>", "<norm>"]
SPELLED += ["marker9", "MARKER9", "※", " <gap>", "＜norm＞", "<|user|>"]
PARTS = [
    "<",
    "<|",
    "<|im_",
    "im_start",
    "start|>",
    "|>",
    ">",
    "[",
    "INST",
    "]",
    "</",
    "think",
    "k>",
]
PARTS += ["marker", "9", " ", "\n", "a", "\ufdd0", "\ufdd1", "\ufffe", "<|im_<think>start|>"]
TEXT = st.lists(
    st.sampled_from([*SPELLED, *PARTS]) | st.text("ab <|>/", max_size=3), max_size=6
).map("".join)


@functools.cache
def renderer(family: str, dialect: str) -> ChatRenderer:
    return ChatRenderer(cached(family), DIALECTS[dialect])


@functools.cache
def reference(family: str, dialect: str) -> Any:
    return reference_of(build(family), DIALECTS[dialect])


def reference_ids(family: str, dialect: str, messages: Messages, **options: Any) -> list[int]:
    options = {"add_generation_prompt": True, **options}
    return reference(family, dialect).apply_chat_template(messages, return_dict=False, **options)


def control_of(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The control ids, but the one that stands for letters that the vocabulary lacks."""
    unknown = tokenizer.id_of("<unk>")
    return [id_ for id_ in ids if id_ in tokenizer.control_ids and id_ != unknown]


def talk(*texts: str) -> Messages:
    return [{"role": role, "content": text} for role, text in zip(ROLES, texts, strict=False)]


def make_tool(text: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": text,
            "description": text,
            "parameters": {
                "type": "object",
                "properties": {text: {"type": "string", "enum": [text, {text: [text]}]}},
            },
        },
    }
