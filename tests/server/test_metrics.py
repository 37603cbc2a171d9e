"""What is counted, for whom; and that no client can make up a label."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from llmplug.errors import EngineError
from llmplug.types import FinishReason

from .conftest import Running, StartServer, until
from .fake_engine import endless, fail_after, speak

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(server: Running) -> Samples:
    headers = {"x-api-key": "secret-1"}
    text = (await server.http.get("/metrics", headers=headers)).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"llmplug_{name}", frozenset(labels.items())]


async def test_tokens_and_requests_by_model_and_key(start: StartServer) -> None:
    keys = ({"name": "alice", "key": "secret-1"}, {"name": "bob", "key": "secret-2"})
    server = await start(speak("abc", finish=FinishReason.LENGTH, cached=2), api_keys=keys)
    for key, count in (("secret-1", 2), ("secret-2", 1)):
        for _ in range(count):
            body = {"model": "toy", "prompt": "12345"}
            await server.http.post("/v1/completions", json=body, headers={"x-api-key": key})
    samples = await scrape(server)
    assert value(samples, "key_requests_total", model="toy", key="alice", outcome="done") == 2
    assert value(samples, "key_requests_total", model="toy", key="bob", outcome="done") == 1
    for kind, each, total in (
        ("prompt", 5, "prompt_tokens"),
        ("cached", 2, "cached_prompt_tokens"),
        ("completion", 3, "completion_tokens"),
    ):
        assert value(samples, "key_tokens_total", model="toy", key="alice", kind=kind) == 2 * each
        assert value(samples, "key_tokens_total", model="toy", key="bob", kind=kind) == each
        assert value(samples, f"{total}_total", model="toy") == 3 * each
    assert value(samples, "choices_total", model="toy", reason="length") == 3
    for name in ("queue_seconds", "time_to_first_token_seconds", "request_seconds"):
        assert value(samples, f"{name}_count", model="toy") == 3
    assert value(samples, "prompt_length_tokens_bucket", model="toy", le="5.0") == 3
    assert value(samples, "prompt_length_tokens_bucket", model="toy", le="2.0") == 0
    assert value(samples, "answer_length_tokens_sum", model="toy") == 9


async def test_what_went_wrong_by_its_name(start: StartServer) -> None:
    server = await start(fail_after(EngineError("inside"), "a"))
    await server.complete()
    await server.complete(temperature=9)
    server.engine.script = endless()
    await server.complete(deadline_ms=50)
    gone = asyncio.create_task(server.complete())
    await until(lambda: server.engine.num_open == 1)
    gone.cancel()
    await until(lambda: server.engine.num_open == 0)
    ended = asyncio.create_task(server.complete())
    await until(lambda: server.engine.num_open == 1)
    await server.app.ctx.lifecycle.end()
    await ended
    await until(lambda: server.num_in_flight == 0)
    samples = await scrape(server)
    assert value(samples, "errors_total", model="toy", code="engine_error") == 1
    assert value(samples, "errors_total", model="toy", code="invalid_value") == 1
    for reason in ("deadline", "client", "shutdown"):
        assert value(samples, "aborts_total", model="toy", reason=reason) == 1
    for outcome, count in (("error", 2), ("done", 1), ("abort", 2)):
        assert value(samples, "generations_total", model="toy", outcome=outcome) == count


async def test_no_label_is_what_a_client_wrote(start: StartServer) -> None:
    server = await start()
    odd = "zebra"
    headers = {"X-Request-Id": odd, "User-Agent": odd, "traceparent": odd, "x-api-key": odd}
    for path, body in (
        (f"/{odd}", {}),
        ("/v1/completions", {"model": odd, "prompt": odd}),
        ("/v1/completions", {"model": "toy", "prompt": odd, "user": odd, odd: odd}),
        ("/v1/completions", {"model": "toy", "prompt": odd, "cache_salt": odd}),
        ("/v1/chat/completions", {"model": "toy", "messages": [{"role": odd, "content": odd}]}),
    ):
        await server.http.post(path, json=body, headers=headers)
    await server.http.request(odd.upper(), "/v1/models", headers=headers)
    await server.http.get(f"/v1/models/{odd}", headers=headers)
    text = (await server.http.get("/metrics")).text
    assert odd not in text.lower()
    assert 'code="model_not_found"' in text


async def test_a_stalled_engine_and_the_process_are_seen(start: StartServer) -> None:
    server = await start()
    server.engine.stalled_s = 61.0
    samples = await scrape(server)
    assert value(samples, "engine_stalled_seconds", model="toy") == 61.0
    assert value(samples, "ready", model="toy") == 0
    assert samples["process_resident_memory_bytes", frozenset()] > 2**20


async def test_vectors_are_counted_too(start: StartServer) -> None:
    server = await start(task="embed")
    await server.http.post("/v1/embeddings", json={"model": "toy", "input": ["abc", "de"]})
    samples = await scrape(server)
    assert value(samples, "generations_total", model="toy", outcome="done") == 1
    assert value(samples, "prompt_length_tokens_count", model="toy") == 2
    assert value(samples, "answer_length_tokens_count", model="toy") == 0
