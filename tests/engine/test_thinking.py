"""Thinking budgets: the end marker comes after so many tokens, and nothing else changes."""

from __future__ import annotations

import msgspec
import pytest
from engine.fake_model import (
    VOCAB_SIZE,
    drain,
    expected_output,
    make_engine,
    make_request,
    next_token,
    output_of,
)
from engine.test_grammar_masks import Backend

from llmplug import InvalidRequest
from llmplug.engine.thinking import ANSWER_TOKENS, fit_budget
from llmplug.grammar import Text, encode_grammar
from llmplug.types import ThinkingBudget

START, END, CALL = 90, 91, 92
NUM_TOKENS = 200


def make_budget(max_tokens: int, *, is_open: bool = True) -> ThinkingBudget:
    return ThinkingBudget(
        max_tokens=max_tokens, start_ids=(START,), end_ids=(END, CALL), is_open=is_open
    )


def expected(prompt: list[int], budget: ThinkingBudget) -> list[int]:
    """Count the thinking anew for each token."""
    output: list[int] = []
    for _ in range(NUM_TOKENS):
        thinks, num_thought = budget.is_open, 0
        for token_id in output:
            if token_id in budget.end_ids:
                thinks = False
            elif thinks:
                num_thought += 1
            else:
                thinks = token_id in budget.start_ids
        is_over = thinks and num_thought >= budget.max_tokens
        output.append(END if is_over else next_token(prompt + output))
    return output


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("max_tokens", [0, 1, 7, 100])
@pytest.mark.parametrize("num_pages", [60, 500])  # 60: sequences are put back, computed again
def test_end_marker_comes_when_the_budget_is_used_up(
    max_tokens: int, num_pages: int, is_open: bool
) -> None:
    prompts = [[i, i + 1, 5] for i in range(8)]
    budget = make_budget(max_tokens, is_open=is_open)
    engine = make_engine(num_pages=num_pages)
    for i, prompt in enumerate(prompts):
        request = make_request(str(i), prompt, max_tokens=NUM_TOKENS)
        engine.add(msgspec.structs.replace(request, thinking=budget if i % 2 else None))
    found = drain(engine, max_steps=20_000)
    for i, prompt in enumerate(prompts):
        wanted = expected(prompt, budget) if i % 2 else expected_output(prompt, NUM_TOKENS)
        assert output_of(found[str(i), 0]) == wanted
    assert (engine.stats.num_preemptions > 0) == (num_pages == 60)
    starts = [output_of(found[str(i), 0])[: max_tokens + 1] for i in range(1, 8, 2)]
    assert not is_open or all({END, CALL} & set(start) for start in starts)


def test_each_answer_has_its_own_budget_and_its_own_logprobs() -> None:
    engine = make_engine(num_pages=400)
    request = make_request("a", [1, 2], num_sequences=3, logprobs=2, temperature=1.0, seed=4)
    engine.add(msgspec.structs.replace(request, thinking=make_budget(2)))
    found = drain(engine)
    outputs = [output_of(found["a", i]) for i in range(3)]
    assert len({tuple(output) for output in outputs}) > 1
    for i, output in enumerate(outputs):
        assert END in output[:3]
        at = next(k for k, token_id in enumerate(output) if token_id in {END, CALL})
        delta = found["a", i][at]
        assert delta.logprobs is not None
        # The model's own distribution, which knows nothing of a budget.
        assert delta.logprobs[0].logprob > -9999
        assert delta.logprobs[0].top[0][0] == next_token([1, 2, *output[:at]])


@pytest.mark.parametrize(
    ("asked", "max_tokens", "kept"),
    [
        (10, 1000, 10),
        (1000, 1000, 1000 - 1 - ANSWER_TOKENS),
        (10, 10, 4),
        (0, 10, 0),
        (5, 1, 0),
    ],
)
def test_budget_leaves_room_for_an_answer(asked: int, max_tokens: int, kept: int) -> None:
    fitted = fit_budget(make_budget(asked), max_tokens, VOCAB_SIZE)
    assert fitted.max_tokens == kept
    assert fit_budget(fitted, max_tokens, VOCAB_SIZE) == fitted


def test_malformed_budgets_are_refused() -> None:
    good = make_budget(3)
    for changes, param in (
        ({"max_tokens": -1}, "thinking_token_budget"),
        ({"end_ids": ()}, "thinking"),
        ({"start_ids": (VOCAB_SIZE,)}, "thinking"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            fit_budget(msgspec.structs.replace(good, **changes), 100, VOCAB_SIZE)
        assert caught.value.param == param


def test_grammar_may_put_the_end_off() -> None:
    """It forbids the marker for a token beyond the budget, then allows it among others."""
    engine = make_engine(open_grammars=Backend)
    steps = f"5|6 5|6 5|6|{END} 7|8 9"
    for name, budget in (("free", None), ("held", make_budget(1))):
        request = make_request(name, [1, 2], grammar=encode_grammar(Text(steps)))
        engine.add(msgspec.structs.replace(request, thinking=budget))
    found = drain(engine)
    held = output_of(found["held", 0])
    assert (held[0] in {5, 6}, held[1] in {5, 6}, held[2]) == (True, True, END)
    assert held[4] == 9
    assert found["held", 0][-1].error is None
    assert len(output_of(found["free", 0])) == 5
