"""Beam search: transformers' answers, whatever else runs, and however little room there is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from engine.fake_model import drain, make_request, output_of
from engine.tiny_engine import TinyModel
from tiny import EOS_ID

from llmplug import InvalidRequest, SamplingParams
from llmplug.engine.beam import BeamSearch
from llmplug.engine.graphs import EagerGraphs
from llmplug.engine.limits import normalise
from llmplug.grammar import Vocabulary
from llmplug.types import BeamParams, FinishReason

PROMPTS = [[7, 40, 99, 12, 200, 3], [250, 1, 30], list(range(40, 57))]
NUM_TOKENS = 10
# Tokens that end answers: with the one of the checkpoint alone, answers of a tiny random model are
# all as long as may be.
STOP_IDS = (*range(40), 117, 19)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> TinyModel:
    model = TinyModel(tmp_path_factory.mktemp("tiny"))
    model.answers = {}  # transformers', each asked for once
    return model


def ask(name: Any, prompt: list[int], width: int, n: int | None = None, **fields: Any):
    beams = {key: fields.pop(key) for key in ("length_penalty", "early_stopping") if key in fields}
    sampling = SamplingParams(
        max_tokens=fields.pop("max_tokens", NUM_TOKENS),
        beams=BeamParams(width=width, **beams),
        **fields,
    )
    request = make_request(str(name), prompt, num_sequences=n or width)
    return msgspec.structs.replace(request, sampling=sampling)


def answers_of(found, name: Any) -> list[list[int]]:
    """Each answer comes in one delta."""
    answers = [deltas for (key, _), deltas in sorted(found.items()) if key == str(name)]
    assert all(len(deltas) == 1 for deltas in answers)
    return [output_of(deltas) for deltas in answers]


def reference(tiny: TinyModel, prompt: list[int], width: int, stop_ids=(), **options: Any):
    key = (tuple(prompt), width, stop_ids, repr(options))
    if key not in tiny.answers:
        tiny.answers[key] = generate(tiny, prompt, width, stop_ids, options)
    return tiny.answers[key]


@torch.inference_mode()
def generate(tiny: TinyModel, prompt: list[int], width: int, stop_ids, options: dict[str, Any]):
    ids = torch.tensor([prompt])
    out = tiny.reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        num_beams=width,
        num_return_sequences=width,
        eos_token_id=[EOS_ID, *stop_ids],
        pad_token_id=EOS_ID,
        **options,
    )
    ends = {EOS_ID, *stop_ids}
    answers = []
    for row in out[:, len(prompt) :].tolist():
        length = next((i + 1 for i, token_id in enumerate(row) if token_id in ends), len(row))
        answers.append(row[:length])
    return answers


@pytest.mark.parametrize("width", [2, 4, 7])
@pytest.mark.parametrize(
    ("length_penalty", "early_stopping"),
    [(0.0, "never"), (1.0, False), (1.0, True), (2.0, False), (2.0, "never"), (-1.0, True)],
)
def test_answers_are_transformers(tiny, width, length_penalty, early_stopping) -> None:
    options = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    engine = tiny.make_engine()
    for i, prompt in enumerate(PROMPTS[:2]):
        engine.add(ask(i, prompt, width, stop_token_ids=STOP_IDS, **options))
    found = drain(engine)
    for i, prompt in enumerate(PROMPTS[:2]):
        expected = reference(tiny, prompt, width, STOP_IDS, **options)
        assert answers_of(found, i) == expected
    assert engine.stats.num_pages_used == 0


def test_some_answers_end_early_and_some_late(tiny) -> None:
    """Or the comparison above would show little."""
    lengths = {
        len(answer)
        for penalty in (-1.0, 2.0)
        for answer in reference(tiny, PROMPTS[0], 4, STOP_IDS, length_penalty=penalty)
    }
    assert min(lengths) < NUM_TOKENS // 2
    assert max(lengths) == NUM_TOKENS


def test_one_beam_is_greedy(tiny) -> None:
    engine = tiny.make_engine()
    engine.add(ask("a", PROMPTS[0], 1))
    engine.add(make_request("b", PROMPTS[0], max_tokens=NUM_TOKENS))
    found = drain(engine)
    assert answers_of(found, "a") == [output_of(found["b", 0])]


@pytest.mark.parametrize(
    "changes",
    [
        {"graphs": EagerGraphs},
        {"graphs": EagerGraphs, "num_pages": 16, "is_prefix_cached": False},
        {"page_size": 1, "num_pages": 400},
        {"page_size": 16, "num_pages": 40},
        {"prefill_chunk": 2, "max_batch_tokens": 16},
        {"is_prefix_cached": False},
        {"max_sequences": 2},
        {"num_pages": 14},
        {"num_pages": 9, "max_sequences": 3, "is_prefix_cached": False},
    ],
    ids=str,
)
def test_little_room_changes_nothing(tiny, changes) -> None:
    make_graphs = changes.get("graphs", lambda: None)
    engine = tiny.make_engine(**{**changes, "graphs": make_graphs()})
    for i, prompt in enumerate(PROMPTS[:2]):
        engine.add(ask(i, prompt, 4, stop_token_ids=STOP_IDS))
    engine.add(make_request("greedy", PROMPTS[0], max_tokens=20))
    found = drain(engine)
    for i, prompt in enumerate(PROMPTS[:2]):
        assert answers_of(found, i) == reference(tiny, prompt, 4, STOP_IDS)
    alone = tiny.make_engine()
    alone.add(make_request("greedy", PROMPTS[0], max_tokens=20))
    assert output_of(found["greedy", 0]) == output_of(drain(alone)["greedy", 0])
    assert engine.stats.num_pages_used == 0


def test_beams_share_pages(tiny) -> None:
    """Eight beams of a long prompt take little more room than one."""
    prompt = [i * 7 % 256 for i in range(120)]
    engine = tiny.make_engine(num_pages=200, page_size=4, is_prefix_cached=False)
    engine.add(ask("a", prompt, 8, max_tokens=6))
    most = 0
    while engine.has_work:
        engine.step()
        most = max(most, engine.stats.num_pages_used)
    assert 30 <= most <= 30 + 8 * 3


def test_the_best_of_the_beams_are_returned(tiny) -> None:
    engine = tiny.make_engine()
    engine.add(ask("a", PROMPTS[0], 5, n=2, stop_token_ids=STOP_IDS))
    assert answers_of(drain(engine), "a") == reference(tiny, PROMPTS[0], 5, STOP_IDS)[:2]


def test_processors_that_bias_count(tiny) -> None:
    """A minimal length and forbidden tokens, as transformers has them."""
    engine = tiny.make_engine()
    engine.add(ask("min", PROMPTS[1], 4, stop_token_ids=STOP_IDS, min_tokens=9))
    engine.add(
        ask("bad", PROMPTS[1], 4, stop_token_ids=STOP_IDS, bad_words=((117,), (19,), (173, 90)))
    )
    engine.add(ask("new", PROMPTS[1], 4, stop_token_ids=STOP_IDS, repetition_penalty=1.5))
    found = drain(engine)
    expected = reference(tiny, PROMPTS[1], 4, STOP_IDS, min_new_tokens=9)
    assert answers_of(found, "min") == expected
    expected = reference(tiny, PROMPTS[1], 4, STOP_IDS, bad_words_ids=[[117], [19], [173, 90]])
    assert answers_of(found, "bad") == expected
    expected = reference(tiny, PROMPTS[1], 4, STOP_IDS, repetition_penalty=1.5)
    assert answers_of(found, "new") == expected


def test_a_stop_string_ends_a_beam(tiny) -> None:
    free = reference(tiny, PROMPTS[0], 4)
    texts = [bytes([33 + i % 90]) for i in range(263)]
    stop = (texts[free[0][3]] + texts[free[0][4]]).decode()
    engine = tiny.make_engine(
        read_vocabulary=lambda: Vocabulary(
            token_bytes=texts, control_ids={}, end_ids=frozenset(), encode=lambda text: []
        )
    )
    # A penalty on length, so that those which end early are among the best.
    engine.add(ask("a", PROMPTS[0], 4, stop=(stop,), length_penalty=-1.0))
    found = drain(engine)
    for deltas in found.values():
        ids = output_of(deltas)
        text = b"".join(texts[i] for i in ids).decode()
        is_stopped = deltas[0].finish_reason is FinishReason.STOP
        assert is_stopped == (stop in text or ids[-1] == EOS_ID)
        assert stop not in text[:-1]
    assert any(stop in b"".join(texts[i] for i in output_of(d)).decode() for d in found.values())


def test_finish_reasons(tiny) -> None:
    engine = tiny.make_engine()
    engine.add(ask("a", PROMPTS[0], 4, stop_token_ids=STOP_IDS))
    for (deltas,) in zip(drain(engine).values(), strict=True):
        ids, delta = output_of(deltas), deltas[0]
        if ids[-1] in {EOS_ID, *STOP_IDS}:
            assert (delta.finish_reason, delta.stop_token_id) == (FinishReason.STOP, ids[-1])
        else:
            assert (delta.finish_reason, delta.stop_token_id) == (FinishReason.LENGTH, None)
            assert len(ids) == NUM_TOKENS


@pytest.mark.parametrize("after", [0, 1, 4])
def test_an_abort_gives_everything_back(tiny, after) -> None:
    engine = tiny.make_engine()
    engine.add(ask("a", PROMPTS[0], 4, n=3))
    engine.add(ask("b", PROMPTS[1], 2))
    for _ in range(after):
        engine.step()
    engine.abort("a", 1)
    engine.abort("a")
    found = drain(engine)
    for index in range(3):
        assert [d.finish_reason for d in found["a", index]] == [FinishReason.ABORT]
    assert answers_of(found, "b") == reference(tiny, PROMPTS[1], 2)
    assert engine.stats.num_pages_used == 0


def test_a_failed_step_ends_all_answers(tiny, monkeypatch) -> None:
    engine = tiny.make_engine()
    engine.add(ask("a", PROMPTS[0], 3))
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine._runner, "run", lambda schedule: 1 / 0)
        deltas = engine.step().deltas
    assert [(d.index, d.finish_reason) for d in deltas] == [
        (index, FinishReason.ERROR) for index in range(3)
    ]
    assert not engine.has_work
    assert engine.stats.num_pages_used == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"width": 0, "n": 1}, "best_of"),
        ({"width": 65}, "best_of"),
        ({"width": 2, "n": 3}, "n"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"early_stopping": "soon"}, "early_stopping"),
        ({"temperature": 0.7}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"samplers": ()}, "samplers"),
        ({"logprobs": 1}, "logprobs"),
        ({"extra": {"mirostat": 2}}, "mirostat"),
    ],
)
def test_what_contradicts_beams_is_refused(tiny, fields, param) -> None:
    limits = tiny.make_engine().limits
    with pytest.raises(InvalidRequest) as caught:
        normalise(ask("a", [1], **{"width": 2, **fields}), limits)
    assert caught.value.param == param


def test_normalising_twice_changes_nothing(tiny) -> None:
    limits = tiny.make_engine().limits
    once = normalise(ask("a", [1], 2, temperature=0.0, repetition_penalty=1.2), limits)
    assert normalise(once, limits) == once


def test_a_search_by_hand() -> None:
    """Two beams over tokens 0 (the end), 1 and 2: the greedy start loses."""
    tables = {
        (): [(1, -0.5), (2, -1.0), (0, -9.0)],
        (1,): [(1, -3.0), (2, -3.1), (0, -4.0)],
        (2,): [(0, -0.1), (1, -2.0), (2, -5.0)],
    }

    def find_end(output_ids, token_id):
        if token_id == 0:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(output_ids) == 1 else None

    params = BeamParams(width=2, length_penalty=0.0)
    search = BeamSearch(params, 2, 1, find_end)
    branches = search.advance([tables[()]])
    assert [(b.parent, b.token_id) for b in branches] == [(0, 1), (0, 2)]
    assert search.advance([tables[(1,)], tables[(2,)]]) == []
    assert [(a.output_ids, a.score) for a in search.answers] == [([2, 0], -1.1), ([2, 1], -3.0)]
