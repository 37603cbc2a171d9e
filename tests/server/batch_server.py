"""A server of its own over a scripted engine, for tests that kill it: `python -m ... FOLDER`."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import AsyncGenerator

from llmplug.config import BatchesConfig, ResponsesConfig, ServerConfig
from llmplug.server.app import create_app, serve
from llmplug.server.model_service import ModelService
from llmplug.server.service import Service
from llmplug.types import FinishReason, GenerateRequest, SequenceDelta

from .fake_engine import TOKENIZER, FakeEngine, FakeRenderer

MAX_ANSWER_S = 0.05


async def echo(request: GenerateRequest) -> AsyncGenerator[SequenceDelta, None]:
    """Repeat the prompt, some time later."""
    await asyncio.sleep(random.uniform(0, MAX_ANSWER_S))
    yield SequenceDelta(
        request_id=request.request_id,
        token_ids=request.prompt_ids,
        finish_reason=FinishReason.LENGTH,
    )


def main(folder: str) -> None:
    logging.basicConfig(level="INFO", stream=sys.stderr)
    responses = ResponsesConfig(path=f"{folder}/responses.sqlite")
    settings = ServerConfig(port=0, batches=BatchesConfig(path=folder), responses=responses)
    service = Service([ModelService("toy", TOKENIZER, FakeRenderer(), FakeEngine(echo))])
    serve(create_app(service, settings), settings)


if __name__ == "__main__":
    main(sys.argv[1])
