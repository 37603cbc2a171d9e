"""Two ranks answer as one does, whatever is asked: the same tokens, and nearly the same numbers.

Rank 0 runs in the test, the other one in the process that a server would start.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.fake_model import drain, finish_of, make_request, output_of
from msgspec import structs
from tiny import make_checkpoint
from tiny_encoders import CLASSIFIERS, ENCODERS, add_modules, make_encoder

from llmplug import assemble
from llmplug.build import build_engine
from llmplug.chat.tokenizer import Tokenizer
from llmplug.config import Config, parse
from llmplug.engine.engine import Engine
from llmplug.engine.pooling import PoolingEngine
from llmplug.engine.ranks.group import RankGroup
from llmplug.errors import ConfigError
from llmplug.grammar import Json, encode_grammar
from llmplug.processes import RANK_ARGV, engine_payload
from llmplug.types import BeamParams, FinishReason, PoolRequest, SequenceDelta

VARIANTS = ("llama", "mistral", "qwen2", "qwen3")
AHEAD = "llama-ahead"  # steps are laid out on the device, one ahead of the host
# A float32 sum that is cut in two rounds differently in its last bits (2^-24 of it), and two layers
# carry that on to logits of size 10.
LOGPROB_TOLERANCE = 1e-4
CONFIG = """
models:
  - name: {name}
    source: {folder}
    device: cpu
    parallel: {{tensor: {tensor}}}
    cache: {{dtype: float32, page_size: 4, memory: 1MiB}}
    scheduler:
      {{max_sequences: 8, max_batch_tokens: 48, prefill_chunk: 16, launch_ahead: {ahead}}}
"""
ENCODER_CONFIG = """
models:
  - name: {name}
    source: {folder}
    device: cpu
    parallel: {{tensor: {tensor}}}
    cache: {{dtype: float32}}
    scheduler: {{max_batch_tokens: 100, prefill_chunk: 16}}
"""
VECTOR_TOLERANCE = 1e-5  # of vectors of length 1, and of scores near it
LISTENS, LOOPBACK = "0A", "0100007F"  # as the kernel writes them
NUM_PAGES = 120  # of 4 tokens: not enough for eight sequences
Found = dict[tuple[str, int], list[SequenceDelta]]


def ignore(stage: str, done: int, total: int) -> None:
    """Tests draw no bars."""


@dataclass
class Served:
    """A config of one model, planned, and the other ranks, which import while others build."""

    config: Config
    stack: ExitStack
    folder: Path
    group: RankGroup | None = field(default=None, init=False)
    lost: list[Exception] = field(default_factory=list)  # ranks that ended before they were told to

    def __post_init__(self) -> None:
        (model,) = self.config.models
        self.registry = assemble.load_registry(self.config)
        self.plan = assemble.plan_model(model, self.registry, ignore)
        if model.parallel.tensor == 1:
            return
        text = assemble.plan_text(model, self.registry, ignore)
        payload = engine_payload(text, self.config, self.registry, self.plan.place)
        store = self.folder / "store"
        group = RankGroup(RANK_ARGV, payload, num_ranks=model.parallel.tensor, store=store)
        self.group = self.stack.enter_context(closing(group))
        self.group.watch(self.lost.append)

    def build(self) -> Engine:
        settings = replace(self.plan.settings, num_pages=NUM_PAGES)
        plan = replace(self.plan, settings=settings)
        engine = build_engine(plan, self.registry, ignore, self.group)
        assert isinstance(engine, Engine)
        return engine

    def build_reader(self) -> PoolingEngine:
        engine = build_engine(self.plan, self.registry, ignore, self.group)
        assert isinstance(engine, PoolingEngine)
        return engine


@dataclass
class Twin:
    """The same model on one rank and on two."""

    one: Engine
    two: Engine
    tokenizer: Tokenizer
    group: RankGroup
    lost: list[Exception]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many as a rank takes, and as threads that wait for each other are slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Twin]]:
    with ExitStack() as stack:
        planned = {}
        for name in (*VARIANTS, AHEAD):
            folder = tmp_path_factory.mktemp(name)
            make_checkpoint(name.removesuffix("-ahead"), folder)
            served = []
            for tensor in (2, 1):
                text = CONFIG.format(
                    name=name, folder=folder, tensor=tensor,
                    ahead=str(name == AHEAD).lower(),
                )  # fmt: skip
                served.append(Served(parse(text), stack, tmp_path_factory.mktemp("ranks")))
            planned[name] = served
        yield {
            name: Twin(one.build(), two.build(), one.plan.tokenizer, two.group, two.lost)
            for name, (two, one) in planned.items()
        }


@pytest.fixture(params=[*VARIANTS, AHEAD])
def twin(twins: dict[str, Twin], request: pytest.FixtureRequest) -> Iterator[Twin]:
    twin = twins[request.param]
    yield twin
    assert twin.lost == []
    for engine in (twin.one, twin.two):
        assert engine.stats.num_pages_used == 0


def draw_prompt(source: random.Random, length: int) -> list[int]:
    return [source.randrange(256) for _ in range(length)]


def run(engine: Engine, requests: list[Any]) -> Found:
    for request in requests:
        engine.add(request)
    return drain(engine)


def assert_same(twin: Twin, requests: list[Any]) -> Found:
    """Ask both; they say the same, and rate it nearly the same. Returns what they say."""
    one, two = run(twin.one, requests), run(twin.two, requests)
    assert one.keys() == two.keys()
    for key, deltas in one.items():
        assert output_of(two[key]) == output_of(deltas)
        assert finish_of(two[key]) == finish_of(deltas) != FinishReason.ERROR
        for ours, theirs in zip(list_ratings(deltas), list_ratings(two[key]), strict=True):
            assert [token_id for token_id, _ in ours] == [token_id for token_id, _ in theirs]
            for (_, a), (_, b) in zip(ours, theirs, strict=True):
                assert abs(a - b) < LOGPROB_TOLERANCE
    return two


def list_ratings(deltas: list[SequenceDelta]) -> list[list[tuple[int, float]]]:
    """Return what each place is rated: the token that is there, then the likeliest ones."""
    found = []
    for delta in deltas:
        for each in [*(delta.prompt_logprobs or ()), *(delta.logprobs or ())]:
            if each is not None:
                found.append([(each.token_id, each.logprob), *each.top])
    return found


def test_chunks_batches_and_prefixes_give_the_same(twin: Twin) -> None:
    source = random.Random(1)
    beginning = draw_prompt(source, 40)  # of several chunks
    prompts = [draw_prompt(source, source.randint(1, 30)) for _ in range(12)]
    greedy = partial(make_request, max_tokens=16, ignore_eos=True)
    assert_same(twin, [greedy(f"a{i}", prompt) for i, prompt in enumerate(prompts)])
    assert_same(twin, [greedy("first", beginning)])
    found = assert_same(
        twin, [greedy(f"b{i}", beginning + prompt) for i, prompt in enumerate(prompts)]
    )
    assert all(deltas[0].num_cached_tokens == 40 for deltas in found.values())


def test_ratings_choices_beams_and_schemas_are_the_same(twin: Twin) -> None:
    source = random.Random(2)
    prompt = draw_prompt(source, 21)
    schema = Json({"type": "object", "properties": {"ok": {"type": "boolean"}},
                         "required": ["ok"], "additionalProperties": False})  # fmt: skip
    beams = make_request("beams", prompt, num_sequences=2, temperature=None, max_tokens=12)
    sampling = structs.replace(beams.sampling, beams=BeamParams(width=3), ignore_eos=True)
    found = assert_same(
        twin,
        [
            make_request("rated", prompt, logprobs=3, prompt_logprobs=2, max_tokens=12),
            make_request(
                "several", prompt, num_sequences=3, temperature=0.8, seed=1, max_tokens=12
            ),
            make_request("json", prompt, grammar=encode_grammar(schema), max_tokens=40),
            make_request("bent", prompt, repetition_penalty=1.4, min_p=0.1, max_tokens=12),
            structs.replace(beams, sampling=sampling),
        ],
    )
    assert len(list_ratings(found["rated", 0])) == 20 + 12
    assert len({tuple(output_of(found["several", index])) for index in range(3)}) == 3
    answer = twin.tokenizer.decode(output_of(found["json", 0]))
    assert json.loads(answer).keys() == {"ok"}


def test_what_is_aborted_leaves_the_others_as_they_were(twin: Twin) -> None:
    source = random.Random(3)
    prompts = [draw_prompt(source, 25) for _ in range(6)]
    alone = assert_same(twin, [make_request("3", prompts[3], max_tokens=20, ignore_eos=True)])
    for number, prompt in enumerate(prompts):
        twin.two.add(make_request(str(number), prompt, max_tokens=20, ignore_eos=True))
    kept = []
    for number in (0, 1, 2, 4):
        twin.two.abort(str(number))
        kept += [delta for delta in twin.two.step().deltas if delta.request_id == "3"]
    kept += drain(twin.two)["3", 0]
    assert output_of(kept) == output_of(alone["3", 0])


def test_sequences_that_give_way_are_computed_again_by_all(twin: Twin) -> None:
    source = random.Random(4)
    prompts = [draw_prompt(source, 60) for _ in range(8)]
    before = twin.two.stats.num_preemptions
    requests = [
        make_request(str(i), prompt, max_tokens=50, ignore_eos=True)
        for i, prompt in enumerate(prompts)
    ]
    assert_same(twin, requests)
    assert twin.two.stats.num_preemptions > before


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
def test_ranks_listen_to_this_machine_alone(twins: dict[str, Twin]) -> None:
    (pid,) = twins["llama"].group.pids
    files = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]
    listening = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            _, address, _, state, *rest = line.split()
            if state == LISTENS and f"socket:[{rest[5]}]" in files:
                listening.append(address.partition(":")[0])
    assert set(listening) == {LOOPBACK}


def test_each_holds_about_half(twins: dict[str, Twin]) -> None:
    for twin in twins.values():
        assert twin.two.ready_message().report["cache_bytes"] * 2 == pytest.approx(
            twin.one.ready_message().report["cache_bytes"], rel=0.1
        )


def test_ranks_that_cannot_share_a_model_are_told_which_can(tmp_path: Path) -> None:
    make_checkpoint("llama", tmp_path)
    text = CONFIG.format(name="x", folder=tmp_path, tensor=4, ahead="false")
    with pytest.raises(ConfigError, match=r"4 ranks cannot share .* 'llama': .*; 1, 2, 6 would do"):
        Served(parse(text), ExitStack(), tmp_path)


def test_ranks_need_processes(tmp_path: Path) -> None:
    make_checkpoint("llama", tmp_path)
    text = CONFIG.format(name="x", folder=tmp_path, tensor=2, ahead="false")
    config = parse(text)
    registry = assemble.load_registry(config)
    plan = assemble.plan_model(config.models[0], registry, ignore)
    with pytest.raises(ConfigError, match="ranks are processes of a server"):
        build_engine(plan, registry, ignore)


def pool(engine: PoolingEngine, prompts: list[list[int]], **fields: Any) -> torch.Tensor:
    """Return the vectors of all texts, one behind another."""
    engine.add(PoolRequest(request_id="a", prompts=prompts, **fields))
    results = []
    while engine.has_work:
        results += engine.step().results
    (result,) = results
    assert result.error is None
    return torch.frombuffer(bytearray(result.values), dtype=torch.float32)


def test_vectors_of_a_model_that_generates_are_the_same(tmp_path: Path) -> None:
    make_checkpoint("llama", tmp_path)
    source = random.Random(5)
    prompts = [draw_prompt(source, length) for length in (1, 30, 7, 40)]
    vectors = []
    with ExitStack() as stack:
        for tensor in (1, 2):
            text = CONFIG.format(name="x", folder=tmp_path, tensor=tensor, ahead="false")
            served = Served(parse(f"{text}    task: embed\n"), stack, tmp_path)
            vectors.append(pool(served.build_reader(), prompts))
        assert served.lost == []
    assert len(vectors[0]) == 4 * 48
    torch.testing.assert_close(*vectors, rtol=0, atol=LOGPROB_TOLERANCE)


@pytest.fixture(scope="module")
def readers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, tuple[PoolingEngine, PoolingEngine]]]:
    """Encoders, each on one rank and on two."""
    with ExitStack() as stack:
        planned = {}
        for name, kind, mode in (
            ("mean", ENCODERS["bert"], "mean_tokens"),
            ("cls", ENCODERS["modernbert-biases"], "cls_token"),
            ("scores", CLASSIFIERS["bert"], None),
        ):
            folder = make_encoder(*kind, tmp_path_factory.mktemp(name))
            if mode is not None:
                add_modules(folder, mode, is_normalised=True)
            planned[name] = [
                Served(
                    parse(ENCODER_CONFIG.format(name=name, folder=folder, tensor=tensor)),
                    stack,
                    tmp_path_factory.mktemp("ranks"),
                )
                for tensor in (1, 2)
            ]
        yield {
            name: (one.build_reader(), two.build_reader()) for name, (one, two) in planned.items()
        }
        assert [served.lost for _, served in planned.values()] == [[]] * len(planned)


@pytest.mark.parametrize(
    ("name", "task"),
    [("mean", "embed"), ("mean", "token_embed"), ("cls", "embed"), ("scores", "classify")],
)
def test_what_encoders_say_of_texts_and_pairs_is_the_same(
    readers: dict[str, tuple[PoolingEngine, PoolingEngine]], name: str, task: str
) -> None:
    """Of texts and of pairs, as rerankers read them; alone the same as together, to the bit."""
    one, two = readers[name]
    source = random.Random(6)
    prompts = [[source.randrange(4, 30) for _ in range(n)] for n in (2, 30, 7, 60, 61)]
    pairs = [[int(i > len(ids) // 3) for i in range(len(ids))] for ids in prompts]
    for type_ids in ([], pairs):
        found = pool(two, prompts, task=task, type_ids=type_ids)
        expected = pool(one, prompts, task=task, type_ids=type_ids)
        torch.testing.assert_close(found, expected, rtol=0, atol=VECTOR_TOLERANCE)
        alone = [
            pool(two, [ids], task=task, type_ids=type_ids[i : i + 1])
            for i, ids in enumerate(prompts)
        ]
        assert torch.equal(torch.cat(alone), found)
