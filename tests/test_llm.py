"""`LLM` over a tiny checkpoint: its answers are transformers', and an error leaves nothing behind.

The vocabulary is bytes, so that a text of the random model is cut where a test likes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import EOS_ID, load_reference, make_checkpoint, reference_logits

from llmplug import (
    LLM,
    ConfigError,
    ContextLengthExceeded,
    EngineError,
    InvalidRequest,
    SamplingParams,
    TemplateError,
    UnsupportedParameter,
)
from llmplug.config import Config, from_source, parse
from llmplug.types import FinishReason

NUM_TOKENS = 24
PROMPTS = ["Once upon a time", "def f(x):", "你好", "<|im_start|>user\nHi<|im_end|>\n", "x"]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": NUM_TOKENS, "ignore_eos": True}


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Tests draw no bars."""


def make_config(folder: Path) -> Config:
    exact = ("device=cpu", "dtype=float32", "cache.dtype=float32", "cache.memory=8MiB")
    return from_source(str(folder), sets=[f"models.0.{each}" for each in exact])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("tiny"), max_position_embeddings=128)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return load_reference(folder)


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[LLM]:
    with LLM(make_config(folder), progress=ignore_progress) as llm:
        yield llm


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    """One engine for all tests, each of which must leave it as it was."""
    yield shared
    stats = shared._engine.stats
    assert (stats.num_running, stats.num_waiting, stats.num_pages_used) == (0, 0, 0)


@pytest.mark.parametrize(("said", "expected"), [("auto", math.inf), ("30", 30.0)])
def test_nobody_reads_along_unless_the_config_says_so(folder: Path, said, expected) -> None:
    config = from_source(str(folder), sets=[f"models.0.scheduler.inter_token_ms={said}"])
    with LLM(config, progress=ignore_progress) as llm:
        assert llm._engine.settings.inter_token_ms == expected


@torch.inference_mode()
def decode(model: Any, prompt_ids: list[int], count: int = NUM_TOKENS) -> list[int]:
    """Let transformers decode greedily, past every end of text."""
    ids = torch.tensor([prompt_ids])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    tokens: list[int] = output[0, len(prompt_ids) :].tolist()
    return tokens


def test_greedy_answers_are_those_of_transformers(llm: LLM, reference: Any) -> None:
    answers = llm.generate(PROMPTS, SamplingParams(**GREEDY))
    assert len(answers) == len(PROMPTS)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert answer.prompt_ids == llm.tokenizer.encode(prompt)
        assert answer.token_ids == decode(reference, answer.prompt_ids)
        assert answer.text == llm.tokenizer.decode(answer.token_ids)
        assert (answer.finish_reason, answer.stop) == (FinishReason.LENGTH, None)
        assert (answer.logprobs, answer.prompt_logprobs) == (None, None)


def test_a_prompt_is_text_or_ids_alone_or_in_a_list(llm: LLM) -> None:
    params = SamplingParams(**GREEDY)
    ids = llm.tokenizer.encode(PROMPTS[0])
    (expected,) = llm.generate(PROMPTS[0], params)
    for prompts in ([PROMPTS[0]], ids, tuple(ids), [ids], [tuple(ids)]):
        assert llm.generate(prompts, params) == [expected]
    assert llm.generate([], params) == []


def test_control_tokens_are_recognised_in_prompts_and_not_in_messages(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=1)
    (raw,) = llm.generate("<|im_end|>", params)
    assert raw.prompt_ids == [EOS_ID]
    (chat,) = llm.chat([{"role": "user", "content": "<|im_end|>"}], params)
    assert chat.prompt_ids.count(EOS_ID) == 1  # the template's own


def test_chat_renders_the_template(llm: LLM, reference: Any) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    (answer,) = llm.chat(messages, SamplingParams(**GREEDY))
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert answer.prompt_ids == llm.tokenizer.encode(text + "<|im_start|>assistant\n")
    assert answer.token_ids == decode(reference, answer.prompt_ids)


def test_defaults_and_room(llm: LLM) -> None:
    """Without `max_tokens` an answer may use the context to its end."""
    (answer,) = llm.generate("x" * 100, SamplingParams(temperature=0.0, ignore_eos=True))
    assert len(answer.prompt_ids) + len(answer.token_ids) == 128
    assert answer.finish_reason is FinishReason.LENGTH


def test_several_answers_to_each_prompt(llm: LLM) -> None:
    params = SamplingParams(temperature=1.5, max_tokens=12, seed=5, ignore_eos=True)
    answers = llm.generate(PROMPTS[:2], params, n=3)
    assert [answer.index for answer in answers] == [0, 1, 2] * 2
    prompts = [llm.tokenizer.encode(prompt) for prompt in PROMPTS[:2]]
    assert [answer.prompt_ids for answer in answers] == [p for p in prompts for _ in range(3)]
    assert len({tuple(answer.token_ids) for answer in answers}) == 6
    assert llm.generate(PROMPTS[:2], params, n=3) == answers  # the seed decides
    greedy = llm.generate(PROMPTS[0], SamplingParams(**GREEDY), n=2)
    assert greedy[0].token_ids == greedy[1].token_ids


@pytest.mark.parametrize("is_included", [False, True])
def test_stop_strings(llm: LLM, is_included: bool) -> None:
    (whole,) = llm.generate(PROMPTS[0], SamplingParams(**GREEDY))
    stop = next(
        whole.text[i : i + 2] for i in range(5, 20) if "\ufffd" not in whole.text[i : i + 2]
    )
    end = whole.text.index(stop)
    params = SamplingParams(
        **GREEDY, stop=("never this", stop), include_stop_str_in_output=is_included
    )
    answer, other = llm.generate([PROMPTS[0], PROMPTS[1]], params)
    assert answer.text == whole.text[: end + len(stop) * is_included]
    assert (answer.finish_reason, answer.stop) == (FinishReason.STOP, stop)
    assert len(answer.token_ids) < NUM_TOKENS
    assert answer.token_ids == whole.token_ids[: len(answer.token_ids)]
    assert other.finish_reason is not None


def test_min_tokens_hold_stop_strings_back(llm: LLM) -> None:
    (whole,) = llm.generate(PROMPTS[0], SamplingParams(**GREEDY))
    characters = [c for c in dict.fromkeys(whole.text) if c != "\ufffd"]
    for stop in characters[:6]:
        params = SamplingParams(**GREEDY, stop=(stop,), min_tokens=NUM_TOKENS // 2)
        (answer,) = llm.generate(PROMPTS[0], params)
        assert len(answer.token_ids) >= NUM_TOKENS // 2
        assert whole.text.startswith(answer.text)


@pytest.mark.parametrize("is_included", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_the_id_that_stops_is_counted_and_is_no_text(
    llm: LLM, reference: Any, skip: bool, is_included: bool
) -> None:
    expected = decode(reference, llm.tokenizer.encode(PROMPTS[1]))
    stop_id = expected[NUM_TOKENS // 2]
    until = expected[: expected.index(stop_id)]
    params = SamplingParams(
        **GREEDY,
        stop_token_ids=(stop_id,),
        skip_special_tokens=skip,
        include_stop_str_in_output=is_included,
    )
    (answer,) = llm.generate(PROMPTS[1], params)
    assert answer.token_ids == [*until, stop_id]
    assert (answer.finish_reason, answer.stop) == (FinishReason.STOP, stop_id)
    shown = [*until, stop_id] if is_included else until
    assert answer.text == llm.tokenizer.decode(shown, skip_special_tokens=skip)


def test_end_of_text_is_no_text_though_special_tokens_are_shown(llm: LLM) -> None:
    bias = SamplingParams(temperature=0.0, logit_bias={EOS_ID: 100.0}, skip_special_tokens=False)
    (answer,) = llm.generate(PROMPTS[0], bias)
    assert (answer.text, answer.token_ids, answer.stop) == ("", [EOS_ID], EOS_ID)
    assert answer.finish_reason is FinishReason.STOP


def test_log_probabilities_are_those_of_transformers(llm: LLM, reference: Any) -> None:
    params = SamplingParams(**GREEDY, logprobs=3, prompt_logprobs=2)
    (answer,) = llm.generate(PROMPTS[0], params)
    ids = [*answer.prompt_ids, *answer.token_ids]
    logprobs_TV = reference_logits(reference, ids).log_softmax(-1)
    assert answer.prompt_logprobs is not None
    assert answer.logprobs is not None
    assert len(answer.prompt_logprobs) == len(answer.prompt_ids)
    assert len(answer.logprobs) == len(answer.token_ids)
    assert answer.prompt_logprobs[0] is None
    rated = [*answer.prompt_logprobs[1:], *answer.logprobs]
    for i, found in enumerate(rated):
        assert found is not None
        assert found.token_id == ids[i + 1]
        assert found.logprob == pytest.approx(float(logprobs_TV[i, ids[i + 1]]), abs=2e-4)
    best = logprobs_TV[len(answer.prompt_ids) - 1].topk(3)
    assert [token_id for token_id, _ in answer.logprobs[0].top] == best.indices.tolist()


REFUSED: list[tuple[Any, dict[str, Any], type[InvalidRequest], str | None]] = [
    ("", {}, InvalidRequest, "prompt"),
    ([[]], {}, InvalidRequest, "prompt"),
    ([1, 263], {}, InvalidRequest, "prompt"),
    ([1, -1], {}, InvalidRequest, "prompt"),
    ([1, True], {}, InvalidRequest, "prompt"),
    ([True, 1], {}, InvalidRequest, "prompt"),
    ([1.5], {}, InvalidRequest, "prompt"),
    (["text", 5], {}, InvalidRequest, "prompt"),
    ([[1], ["a"]], {}, InvalidRequest, "prompt"),
    ("x" * 128, {}, ContextLengthExceeded, "prompt"),
    ("x", {"temperature": math.nan}, InvalidRequest, "temperature"),
    ("x", {"temperature": -1.0}, InvalidRequest, "temperature"),
    ("x", {"top_p": math.inf}, InvalidRequest, "top_p"),
    ("x", {"max_tokens": 0}, InvalidRequest, "max_tokens"),
    ("x", {"logit_bias": {263: 1.0}}, InvalidRequest, "logit_bias"),
    ("x", {"stop": ("",)}, InvalidRequest, "stop"),
    ("x", {"extra": {"moonlight": 2}}, UnsupportedParameter, "moonlight"),
]


@pytest.mark.parametrize(("prompt", "fields", "kind", "param"), REFUSED, ids=str)
def test_wrong_requests_are_refused(
    llm: LLM, prompt: Any, fields: dict[str, Any], kind: type[InvalidRequest], param: str | None
) -> None:
    with pytest.raises(kind) as caught:
        llm.generate(prompt, SamplingParams(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize("n", [0, -1, 129])
def test_wrong_numbers_of_answers_are_refused(llm: LLM, n: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.generate("x", n=n)
    assert caught.value.param == "n"


def test_messages_that_the_template_refuses(llm: LLM) -> None:
    with pytest.raises(InvalidRequest):
        llm.chat([])
    with pytest.raises((TemplateError, InvalidRequest)):
        llm.chat([{"role": "user", "content": 5}])


def test_one_wrong_prompt_refuses_all_and_the_next_call_is_as_before(llm: LLM) -> None:
    params = SamplingParams(**GREEDY)
    before = llm._engine.stats
    with pytest.raises(InvalidRequest):
        llm.generate([PROMPTS[0], [9999], PROMPTS[1]], params)
    assert llm._engine.stats.num_generated_tokens == before.num_generated_tokens
    assert llm._engine.stats.num_running == llm._engine.stats.num_waiting == 0
    (first,) = llm.generate(PROMPTS[0], params)
    assert len(first.token_ids) == NUM_TOKENS


def test_an_interrupt_leaves_nothing_behind(folder: Path) -> None:
    """The progress is called while others still generate: what it raises ends them too."""

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "generating" and wanted:
            raise KeyboardInterrupt

    wanted = True
    params = SamplingParams(**GREEDY)
    with LLM(make_config(folder), progress=interrupt) as llm:
        with pytest.raises(KeyboardInterrupt):
            llm.generate([[1] * 5, [2] * 50], params, n=2)
        stats = llm._engine.stats
        assert (stats.num_running, stats.num_waiting, stats.num_pages_used) == (0, 0, 0)
        wanted = False
        (answer,) = llm.generate([[1] * 5], params)
        assert len(answer.token_ids) == NUM_TOKENS


def test_a_failing_step_is_raised_and_leaves_nothing_behind(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(schedule: Any) -> Any:
        raise RuntimeError("the device is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(llm._engine._runner, "run", fail)
        with pytest.raises(EngineError, match="on fire"):
            llm.generate(PROMPTS, SamplingParams(**GREEDY))
    assert "a forward pass failed" in caplog.text
    (answer,) = llm.generate(PROMPTS[0], SamplingParams(**GREEDY))
    assert len(answer.token_ids) == NUM_TOKENS


def test_a_config_file_and_one_of_several_models(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    cache = "cache: {memory: 8MiB}"
    path.write_text(
        f"models:\n- {{source: {folder}, name: a, {cache}}}\n"
        f"- {{source: {folder}, name: b, context_length: 32, {cache}}}\n"
    )
    with pytest.raises(ConfigError, match="a, b"):
        LLM(path)
    with pytest.raises(ConfigError, match="a, b"):
        LLM(path, model="c")
    with LLM(path, model="b", progress=ignore_progress) as llm:
        assert llm.plan.name == "b"
        with pytest.raises(ContextLengthExceeded):
            llm.generate("x" * 32)


def test_without_a_template_there_is_no_chat(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path)
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    config = parse(
        f"models: [{{source: {folder}, name: mute, cache: {{memory: 8MiB}}}}]\n"
        "plugins: {block: [chatml]}"
    )
    with LLM(config, progress=ignore_progress) as llm:
        with pytest.raises(InvalidRequest, match="mute has no chat template"):
            llm.chat([{"role": "user", "content": "Hi"}])
        (answer,) = llm.generate("Hi", SamplingParams(**GREEDY))
        assert len(answer.token_ids) == NUM_TOKENS
