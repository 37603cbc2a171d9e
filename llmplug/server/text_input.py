"""Texts of a request -> token ids, for models that read texts whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from llmplug.engine.pool_limits import MAX_TEXTS
from llmplug.server.model_service import INLINE_CHARS
from llmplug.server.schema.messages import read_messages
from llmplug.server.schema.prompts import read_prompts

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmplug.server.model_service import ModelService
    from llmplug.server.schema.embeddings import EmbeddingsRequest, TextFields
    from llmplug.server.schema.prompts import Prompt


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What becomes of texts that are too long."""

    max_tokens: int | None  # None: they stay as they are, and the engine refuses them
    keeps_end: bool = False


def read_cut(model: ModelService, asked: TextFields) -> Cut:
    """Read what a request says of texts that are too long."""
    length = asked.truncate_prompt_tokens
    if length == -1:
        length = model.context_length
    return Cut(max_tokens=length, keeps_end=asked.truncation_side == "left")


async def encode_texts(
    model: ModelService,
    texts: Sequence[Prompt],
    cut: Cut,
    *,
    add_special_tokens: bool = True,
    prompt: str = "",
    context_length: int | None = None,
) -> list[list[int]]:
    """Turn texts into ids; ids stay as they are, but for their number.

    Args:
        prompt: put before each text.
        context_length: of a text of more than twice as many tokens, the rest may be left out; None:
            what the model takes.
    """
    tokenizer = model.tokenizer
    context_length = context_length or model.context_length

    def encode(text: Prompt) -> list[int]:
        if isinstance(text, list):
            return text if cut.max_tokens is None else _cut_ids(text, cut.max_tokens, cut.keeps_end)
        return tokenizer.encode_within(
            prompt + text,
            cut.max_tokens,
            keeps_end=cut.keeps_end,
            add_special_tokens=add_special_tokens,
            context_length=context_length,
        )

    return await _run(sum(map(len, texts)), lambda: [encode(text) for text in texts])


async def encode_pairs(
    model: ModelService, pairs: Sequence[tuple[str, str]], max_tokens: int | None
) -> tuple[list[list[int]], list[list[int]]]:
    """Turn pairs of texts into ids, and the segments that these belong to."""
    tokenizer = model.tokenizer
    encoded = await _run(
        sum(len(first) + len(second) for first, second in pairs),
        lambda: [
            tokenizer.encode_pair(first, second, max_tokens, model.context_length)
            for first, second in pairs
        ],
    )
    return [ids for ids, _ in encoded], [types for _, types in encoded]


async def encode_input(model: ModelService, asked: EmbeddingsRequest) -> list[list[int]]:
    """Turn what a request says into ids: texts, ids, or a conversation."""
    if asked.messages is not None:
        messages, _ = read_messages(asked.messages)
        prompt = await model.render(
            await model.find_renderer(None, has_tools=False),
            messages,
            add_generation_prompt=False,
            continue_final_message=False,
            tools=[],
            documents=None,
            template_kwargs=asked.chat_template_kwargs,
        )
        return await encode_texts(model, [prompt.ids], read_cut(model, asked))
    return await encode_texts(
        model,
        read_prompts(asked.input, "input", MAX_TEXTS),
        read_cut(model, asked),
        add_special_tokens=asked.add_special_tokens is not False,
        prompt=find_prompt(model, asked.prompt_name),
    )


def find_prompt(model: ModelService, name: str | None) -> str:
    """Return what the checkpoint puts before a text.

    Raises:
        InvalidRequest: it has no prompt of that name.
    """
    return "" if model.pooling is None else model.pooling.find_prompt(name)


def _cut_ids(ids: list[int], max_tokens: int, keeps_end: bool) -> list[int]:
    return ids[len(ids) - min(max_tokens, len(ids)) :] if keeps_end else ids[:max_tokens]


async def _run(num_chars: int, work: Callable[[], Result]) -> Result:
    return work() if num_chars <= INLINE_CHARS else await asyncio.to_thread(work)
