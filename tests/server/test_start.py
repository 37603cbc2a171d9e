"""What a server makes of engines that start, or cannot."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest

from llmplug.errors import (
    CheckpointError,
    ConfigError,
    EngineUnavailable,
    KernelInputError,
    LlmplugError,
    PluginError,
)
from llmplug.server.model_service import ModelService
from llmplug.server.service import Service
from llmplug.types import EngineReady

from .conftest import until
from .fake_engine import TOKENIZER, FakeEngine


class ReportingEngine(FakeEngine):
    """Tells what a real one tells when it is ready."""

    async def wait_ready(self) -> EngineReady:
        report = {
            "choices": [["device", "cpu"], ["dtype", "float32"]],
            "seconds": {"imports": 2.04, "waiting": 0.01, "weights": 0.5},
        }
        return msgspec.structs.replace(await super().wait_ready(), report=report)


async def test_the_log_says_what_the_engine_chose_and_how_long_it_took(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "llmplug.server")
    service = Service(
        [
            ModelService("toy", TOKENIZER, None, ReportingEngine()),
            ModelService("silent", TOKENIZER, None, FakeEngine()),
        ]
    )
    service.start()
    await until(lambda: service.is_ready)
    await until(lambda: "silent is ready" in caplog.messages)
    assert [line for line in caplog.messages if line.startswith("toy")] == [
        "toy: device: cpu",
        "toy: dtype: float32",
        "toy is ready in 2.5 s: imports 2.0, weights 0.5",  # 0.01 s are not worth a word
    ]
    await service.stop()


def start_two(error: LlmplugError) -> tuple[Service, FakeEngine]:
    """Start a server of which one engine fails, and the other loads until it may be ready."""
    failing, loading = FakeEngine(), FakeEngine()
    failing.failure = error
    loading.may_be_ready.clear()
    service = Service(
        [
            ModelService("loading", TOKENIZER, None, loading),
            ModelService("failing", TOKENIZER, None, failing),
        ]
    )
    service.start()
    return service, loading


@pytest.mark.parametrize("kind", [ConfigError, PluginError, KernelInputError])
async def test_a_mistake_in_the_config_is_told_at_once(kind: type[LlmplugError]) -> None:
    service, _ = start_two(kind("the config is wrong"))
    async with asyncio.timeout(10):
        error = await service.wait_failed()
    assert (type(error), str(error)) == (kind, "the config is wrong")
    await service.stop()


@pytest.mark.parametrize("kind", [CheckpointError, EngineUnavailable])
async def test_any_other_failure_leaves_the_other_models(kind: type[LlmplugError]) -> None:
    service, loading = start_two(kind("it died"))
    failed = asyncio.create_task(service.wait_failed())
    loading.may_be_ready.set()
    await until(lambda: loading.state == "ready")
    for _ in range(10):  # whatever is due has run
        await asyncio.sleep(0)
    assert not failed.done()
    failed.cancel()
    await asyncio.gather(failed, return_exceptions=True)
    await service.stop()


async def test_the_first_failure_is_told_when_nothing_is_left() -> None:
    service, loading = start_two(EngineUnavailable("it died first"))
    loading.failure = CheckpointError("it died later")
    failed = asyncio.create_task(service.wait_failed())
    await until(lambda: service.models[1].client.state == "failed")
    loading.may_be_ready.set()
    async with asyncio.timeout(10):
        assert str(await failed) == "it died first"
    await service.stop()
