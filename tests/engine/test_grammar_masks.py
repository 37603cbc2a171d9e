"""Sequences that keep to a grammar: a made-up backend whose answers are easy to foresee."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from engine.fake_model import (
    EOS_ID,
    VOCAB_SIZE,
    FakeModel,
    drain,
    expected_output,
    finish_of,
    make_engine,
    make_request,
    output_of,
)
from pydantic import BaseModel

from llmplug import GrammarError, InvalidRequest, SamplerSpec, UnsupportedParameter
from llmplug.engine.grammar_masks import GrammarMasks
from llmplug.grammar import Node, Regex, Text, encode_grammar
from llmplug.ops import REFERENCES
from llmplug.ops.table import make_reference_table
from llmplug.types import FinishReason

PROMPT = [3, 1, 4, 1, 5]


class Ids:
    """Text("7 8 9") is these ids one after the other; "7|8 9" lets the first be one of two."""

    def __init__(self, text: str) -> None:
        self.steps = [frozenset(map(int, step.split("|"))) for step in text.split()]
        self.num_bytes = len(text)

    def start(self) -> IdsState:
        return IdsState(self.steps)


class IdsState:
    def __init__(self, steps: list[frozenset[int]]) -> None:
        self.steps = steps
        self.at = 0

    def fill_mask(self, mask: memoryview) -> None:
        allowed = {EOS_ID} if self.is_done else self.steps[self.at]
        if 0 in allowed:
            raise GrammarError("too much work")
        for word in range(len(mask)):
            bits = sum(1 << (id_ % 32) for id_ in allowed if id_ // 32 == word)
            mask[word] = bits - 2**32 if bits >= 2**31 else bits

    def accept(self, token_id: int) -> bool:
        if self.is_done or token_id not in self.steps[self.at]:
            return False
        self.at += 1
        return True

    @property
    def is_done(self) -> bool:
        return self.at == len(self.steps)


class Backend:
    """Compiles Text; anything else is refused. Waits for `gate` first."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.num_compiled = 0

    def compile(self, node: Node) -> Ids:
        self.gate.wait()
        self.num_compiled += 1
        if not isinstance(node, Text):
            raise GrammarError("only Text is known here")
        return Ids(node.text)


def ask(name: str, text: str, **changes):
    return make_request(name, PROMPT, grammar=encode_grammar(Text(text)), **changes)


def test_an_answer_is_what_the_grammar_says_and_ends_with_it() -> None:
    engine = make_engine(open_grammars=Backend)
    engine.add(ask("a", "7 95 31 32 64"))
    (deltas,) = drain(engine).values()
    assert output_of(deltas) == [7, 95, 31, 32, 64]
    assert finish_of(deltas) is FinishReason.STOP
    assert deltas[-1].stop_token_id is None, "the last token is part of the answer"


def test_neighbours_are_free_and_samplers_choose_among_what_is_allowed() -> None:
    engine = make_engine(open_grammars=Backend)
    engine.add(make_request("free", PROMPT))
    engine.add(ask("held", "7|8|9 7|8|9 7|8|9", temperature=1.0, seed=5, top_k=1))
    found = drain(engine)
    assert output_of(found["free", 0]) == expected_output(PROMPT, 8)
    assert set(output_of(found["held", 0])) <= {7, 8, 9}


def test_every_sequence_of_a_request_has_a_state_of_its_own() -> None:
    engine = make_engine(open_grammars=Backend)
    choice = "|".join(map(str, range(1, 60)))
    engine.add(ask("n", f"{choice} {choice} 5", num_sequences=3, temperature=1.0, seed=1))
    outputs = [output_of(deltas) for deltas in drain(engine).values()]
    assert all(len(output) == 3 and output[-1] == 5 for output in outputs)
    assert len({tuple(output) for output in outputs}) == 3


def test_preemption_keeps_the_place_in_the_grammar() -> None:
    steps = [str(1 + i % 90) for i in range(40)]
    engine = make_engine(open_grammars=Backend, num_pages=24, page_size=4)
    for name in "abc":
        engine.add(ask(name, " ".join(steps), max_tokens=60))
    found = drain(engine)
    assert engine.stats.num_preemptions > 0
    assert all(output_of(deltas) == list(map(int, steps)) for deltas in found.values())


def test_logprobs_are_of_the_raw_distribution() -> None:
    engine = make_engine(open_grammars=Backend)
    engine.add(ask("a", "7", logprobs=1))
    (deltas,) = drain(engine).values()
    (logprob,) = deltas[0].logprobs
    assert logprob.token_id == 7
    assert logprob.top[0][0] == expected_output(PROMPT, 1)[0]
    assert logprob.top[0][1] > logprob.logprob


def test_a_slow_grammar_holds_up_nobody_else() -> None:
    backend = Backend()
    backend.gate.clear()
    engine = make_engine(open_grammars=lambda: backend)
    engine.add(ask("slow", "7 8"))
    engine.add(make_request("free", PROMPT, max_tokens=4))
    deltas = [delta for _ in range(6) for delta in engine.step().deltas]
    assert output_of(deltas) == expected_output(PROMPT, 4)
    assert engine.has_work
    backend.gate.set()
    assert output_of(drain(engine)["slow", 0]) == [7, 8]


def test_an_abort_while_it_compiles_leaves_nothing() -> None:
    backend = Backend()
    backend.gate.clear()
    engine = make_engine(open_grammars=lambda: backend)
    engine.add(ask("slow", "7 8"))
    engine.abort("slow")
    backend.gate.set()
    (deltas,) = drain(engine).values()
    assert finish_of(deltas) is FinishReason.ABORT
    assert not engine.has_work


def test_a_grammar_that_does_not_compile_ends_its_own_request() -> None:
    engine = make_engine(open_grammars=Backend)
    engine.add(make_request("bad", PROMPT, grammar=encode_grammar(Regex("a+"))))
    engine.add(make_request("free", PROMPT))
    found = drain(engine)
    assert found["bad", 0][-1].error.message == "only Text is known here"
    assert output_of(found["free", 0]) == expected_output(PROMPT, 8)


def test_a_state_that_raises_ends_its_own_row() -> None:
    engine = make_engine(open_grammars=Backend)
    engine.add(ask("bad", "7 0 8"))
    engine.add(ask("good", "7 9 8"))
    found = drain(engine)
    assert found["bad", 0][-1].error.message == "too much work"
    assert output_of(found["good", 0]) == [7, 9, 8]


def test_equal_grammars_are_compiled_once() -> None:
    backend = Backend()
    engine = make_engine(open_grammars=lambda: backend)
    for name in ("a", "b"):
        engine.add(ask(name, "7 8"))
    drain(engine)
    engine.add(ask("c", "7 8"))
    drain(engine)
    assert backend.num_compiled == 1


class _NoParams(BaseModel):
    fails: bool = True


class _Failing:
    """Raises on batches, so that rows are sampled one by one from fresh logits."""

    def apply(self, logits_RV, rows) -> None:
        if len(rows) > 1:
            raise RuntimeError("not in company")


def test_rows_sampled_again_keep_to_their_grammar() -> None:
    sampler = SamplerSpec(
        name="failing",
        stage="filter",
        params=_NoParams,
        is_active=lambda params: True,
        make=lambda vocab_size, device, ops: _Failing(),
    )
    engine = make_engine(open_grammars=Backend, samplers=[sampler])
    engine.add(ask("a", "7 8 9"))
    engine.add(ask("b", "11 12 13"))
    found = drain(engine)
    assert output_of(found["a", 0]) == [7, 8, 9]
    assert output_of(found["b", 0]) == [11, 12, 13]


@pytest.mark.parametrize("field", [{"min_tokens": 2}, {"ignore_eos": True}])
def test_what_contradicts_a_grammar_is_refused(field) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(field))):
        make_engine(open_grammars=Backend).add(ask("a", "7", **field))


def test_without_a_backend_a_grammar_is_refused() -> None:
    engine = make_engine()
    with pytest.raises(UnsupportedParameter, match="grammar backend"):
        engine.add(ask("a", "7"))
    assert not engine.has_work


def test_the_last_ids_of_a_vocabulary_can_be_forbidden() -> None:
    assert VOCAB_SIZE % 32, "the last word is not full"
    engine = make_engine(FakeModel(), open_grammars=Backend)
    engine.add(ask("a", "96|95 1", ignore_eos=False, stop_token_ids=[]))
    (deltas,) = drain(engine).values()
    assert output_of(deltas)[0] in {95, 96}


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0], [1]])
def test_masks_are_applied_alike_on_every_device(rows: list[int]) -> None:
    """A CPU adds what its thread has prepared; other devices unpack the bits themselves."""
    ops = make_reference_table(REFERENCES)
    masks = GrammarMasks(Backend, VOCAB_SIZE, torch.device("cpu"), ops)
    generator = torch.Generator().manual_seed(3)
    states = [(row, Ids("|".join(map(str, range(row + 1, VOCAB_SIZE, 3))))) for row in rows]
    filled = [masks._fill([(row, state.start()) for row, state in states])]
    filled.append(replace(filled[0], bias_RV=None))
    found = []
    for each in filled:
        logits_SV = torch.randn(3, VOCAB_SIZE, generator=generator.manual_seed(3))
        masks.apply(each, logits_SV)
        found.append(logits_SV)
    assert torch.equal(*found)
    for row in range(3):
        allowed = set(range(row + 1, VOCAB_SIZE, 3) if row in rows else range(VOCAB_SIZE))
        assert set(found[0][row].isfinite().nonzero().flatten().tolist()) == allowed
