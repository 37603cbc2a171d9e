"""The standard samplers: against transformers' processors, against chance, alone and in batches."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from transformers.generation import logits_process as reference

import llmplug_standard
from llmplug import SamplerRow
from llmplug.ops import REFERENCES
from llmplug.ops.table import KernelChoice, KernelTable, make_reference_table
from llmplug.testing import check_fused_sampler, check_sampler
from llmplug_standard.categorical import Categorical
from llmplug_standard.top_p import TopP

CPU = torch.device("cpu")
VOCAB_SIZE = 1003  # odd, so that vectorised loops have a remainder
SPECS = {spec.name: spec for spec in llmplug_standard.llmplug_samplers()}
OPS = make_reference_table(REFERENCES)
SAMPLING_OPS = ("penalise_tokens", "filter_tokens", "choose_tokens")
INF = math.inf


def make_row(name: str, prompt=(), output=(), seed=0, position=None, **params) -> SamplerRow:
    position = len(prompt) + len(output) if position is None else position
    return SamplerRow(SPECS[name].params(**params), prompt, output, seed, position)


def make_sampler(name: str, vocab_size: int = VOCAB_SIZE):
    return SPECS[name].make(vocab_size, CPU, OPS)


def make_logits(rows: int, scale: float = 3.0, vocab_size: int = VOCAB_SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, vocab_size, generator=generator) * scale


def apply(name: str, logits_RV: torch.Tensor, rows) -> torch.Tensor:
    edited = logits_RV.clone()
    make_sampler(name).apply(edited, rows)
    return edited


def sample_ids(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 60, (count,), generator=generator).tolist()


# (sampler, parameters of each row, the processor of transformers for one row)
FILTERS = [
    (
        "temperature",
        [{"temperature": t} for t in (0.1, 0.7, 1.3, 2.0)],
        lambda p: reference.TemperatureLogitsWarper(p["temperature"]),
    ),
    (
        "top_k",
        [{"top_k": k} for k in (1, 2, 50, 500, 1002, 1003, 5000)],
        lambda p: reference.TopKLogitsWarper(p["top_k"]),
    ),
    (
        "top_p",
        [{"top_p": p} for p in (1e-6, 0.1, 0.5, 0.9, 0.95, 0.999)],
        lambda p: reference.TopPLogitsWarper(p["top_p"]),
    ),
    (
        "min_p",
        [{"min_p": p} for p in (1e-6, 0.05, 0.3, 0.99)],
        lambda p: reference.MinPLogitsWarper(p["min_p"]),
    ),
]


@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0])
@pytest.mark.parametrize(("name", "params", "make_reference"), FILTERS, ids=lambda x: str(x)[:12])
def test_filters_agree_with_transformers(name, params, make_reference, scale) -> None:
    logits = make_logits(len(params), scale)
    found = apply(name, logits, [make_row(name, **p) for p in params])
    for row, p in enumerate(params):
        expected = make_reference(p)(None, logits[row : row + 1].clone())[0]
        assert torch.equal(found[row], expected), p


def test_ties_go_to_the_lowest_id() -> None:
    logits = torch.zeros(3, VOCAB_SIZE)
    logits[1, 100:110] = 1.0
    logits[2, ::2] = 2.0
    top_k = apply("top_k", logits, [make_row("top_k", top_k=k) for k in (4, 5, 3)])
    kept = [(row > -INF).nonzero()[:, 0].tolist() for row in top_k]
    assert kept == [[0, 1, 2, 3], [100, 101, 102, 103, 104], [0, 2, 4]]
    share = 4.5 / VOCAB_SIZE
    top_p = apply("top_p", logits[:1], [make_row("top_p", top_p=share)])
    assert (top_p[0] > -INF).nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert make_sampler("greedy").choose(logits, [make_row("greedy")] * 3).tolist() == [0, 100, 0]


def choose_best(logits_V: torch.Tensor, row: SamplerRow) -> torch.Tensor:
    return torch.zeros_like(logits_V).index_fill_(0, logits_V.argmax(), 1.0)


# Sampler -> settings that make it active, and of `greedy` what it chooses.
ACTIVE = {
    "logit_bias": ([{"logit_bias": {3: 100.0, 20: -2.5}}], None),
    "repetition_penalty": ([{"repetition_penalty": p} for p in (0.5, 1.3)], None),
    "presence_frequency": ([{"presence_penalty": 0.7}, {"frequency_penalty": -0.3}], None),
    "temperature": ([{"temperature": t} for t in (0.1, 0.7, 2.0)], None),
    "top_k": ([{"top_k": k} for k in (1, 7, 400, 5000)], None),
    "top_p": ([{"top_p": p} for p in (1e-6, 0.5, 0.99)], None),
    "min_p": ([{"min_p": p} for p in (1e-9, 0.1, 1.0)], None),
    "greedy": ([{"temperature": 0}], choose_best),
    "categorical": ([{"temperature": 1}], None),
}


@pytest.mark.parametrize("name", ACTIVE)
def test_what_holds_for_every_sampler(name) -> None:
    params, formula = ACTIVE[name]
    check_sampler(SPECS[name], params, formula=formula, vocab_size=VOCAB_SIZE)


def test_every_sampler_that_is_asked_for_is_checked() -> None:
    assert set(ACTIVE) == {name for name, spec in SPECS.items() if not spec.fuses}


@pytest.mark.parametrize("penalty", [0.5, 1.2, 2.0])
def test_repetition_penalty_agrees_with_transformers(penalty) -> None:
    logits = make_logits(3)
    texts = [(sample_ids(20, 1), sample_ids(30, 2)), ([7], []), (sample_ids(5, 3), [7, 7, 7])]
    rows = [
        make_row("repetition_penalty", prompt, output, repetition_penalty=penalty)
        for prompt, output in texts
    ]
    found = apply("repetition_penalty", logits, rows)
    processor = reference.RepetitionPenaltyLogitsProcessor(penalty)
    for row, (prompt, output) in enumerate(texts):
        ids = torch.tensor([[*prompt, *output]])
        assert torch.equal(found[row : row + 1], processor(ids, logits[row : row + 1].clone()))


def test_presence_and_frequency_count_the_output_alone() -> None:
    logits = make_logits(3)
    output = sample_ids(40, 4)
    rows = [
        make_row("presence_frequency", [900, 901], output, presence_penalty=0.7),
        make_row("presence_frequency", [900], output, frequency_penalty=-0.3, presence_penalty=1),
        make_row("presence_frequency", [900], [], frequency_penalty=2),
    ]
    expected = logits.double()
    for token_id, count in Counter(output).items():
        expected[0, token_id] -= 0.7
        expected[1, token_id] -= 1 - 0.3 * count
    torch.testing.assert_close(apply("presence_frequency", logits, rows).double(), expected)


def test_logit_bias_is_added() -> None:
    logits = make_logits(2)
    rows = [
        make_row("logit_bias", logit_bias={3: 100.0, 1002: -100.0}),
        make_row("logit_bias", logit_bias={3: 0.5}),
    ]
    difference = apply("logit_bias", logits, rows) - logits
    expected = torch.zeros(2, VOCAB_SIZE)
    expected[0, 3], expected[0, 1002], expected[1, 3] = 100, -100, 0.5
    torch.testing.assert_close(difference, expected, rtol=0, atol=1e-5)


def find_highest_scores(logits_RV: torch.Tensor, rows) -> torch.Tensor:
    """The Gumbel-max trick in double precision and whole numbers, a token at a time."""

    def mix(z: int) -> int:
        z %= 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    def score(logit: float, key: int, token_id: int) -> float:
        uniform = ((mix(key + (token_id + 1) * step) >> 32) + 0.5) / 2**32
        return logit - math.log(-math.log1p(-uniform))

    step, best = 0x9E3779B97F4A7C15, []
    for logits, row in zip(logits_RV.tolist(), rows, strict=True):
        key = mix(mix(row.seed) + (row.position + 1) * step)
        scores = [score(logit, key, token_id) for token_id, logit in enumerate(logits)]
        best.append(max(range(len(scores)), key=scores.__getitem__))
    return torch.tensor(best)


def test_draws_are_the_highest_with_their_noise() -> None:
    """Over all tokens, and over what a filter has left."""
    logits = make_logits(60, 2.0)
    logits[20:40, ::2] = -INF  # half is left
    logits[40:, torch.arange(VOCAB_SIZE) % 20 > 0] = -INF  # a twentieth is left
    rows = [make_row("categorical", seed=i, position=3) for i in range(60)]
    expected = find_highest_scores(logits, rows)
    assert make_sampler("categorical").choose(logits, rows).equal(expected)


def make_hard_logits() -> torch.Tensor:
    """Rows of a real size: peaked, flat, all equal, coarse with many ties, filtered."""
    logits = make_logits(8, 3.0, 50_257)
    logits[1] *= 8
    logits[2] *= 0.01
    logits[3] = 0.0
    logits[4] = logits[4].bfloat16().float()
    logits[5, 100:] = -INF
    logits[6, ::3] = -INF
    logits[7] = logits[7].round()
    return logits


def test_the_fast_twin_draws_the_same() -> None:
    logits = make_hard_logits()
    fast = make_sampler("categorical", 50_257)
    for seed in range(40):
        rows = [make_row("categorical", seed=seed, position=i) for i in range(8)]
        assert fast.choose(logits, rows).equal(Categorical(OPS).choose(logits, rows))


@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_the_fast_twin_keeps_the_same_share(top_p) -> None:
    rows = [make_row("top_p", top_p=top_p)] * 8
    fast, slow = make_hard_logits(), make_hard_logits()
    make_sampler("top_p", 50_257).apply(fast, rows)
    TopP().apply(slow, rows)
    assert torch.equal(fast, slow)


def test_top_k_keeps_what_a_stable_sort_puts_first() -> None:
    counts = (1, 7, 50, 51, 1000, 2000, 50_256, 60_000)
    for shift in range(len(counts)):
        params = [counts[(i + shift) % 8] for i in range(8)]
        for highest in (100, 60_000):  # through the columns, and without
            edited, logits = make_hard_logits(), make_hard_logits()
            chosen = [min(k, highest) for k in params]
            make_sampler("top_k").apply(edited, [make_row("top_k", top_k=k) for k in chosen])
            for row, k in enumerate(chosen):
                kept = logits[row].sort(descending=True, stable=True).indices[:k]
                expected = torch.full_like(logits[row], -INF)
                expected[kept] = logits[row, kept]
                assert torch.equal(edited[row], expected)


def test_extreme_seeds_and_positions() -> None:
    sampler = make_sampler("categorical")
    for seed in (0, -1, 2**63 - 1, -(2**63)):
        for position in (0, 2**31, 2**40):
            row = make_row("categorical", seed=seed, position=position)
            assert 0 <= int(sampler.choose(make_logits(1), [row])) < VOCAB_SIZE


def test_a_row_without_a_good_token_shows_it() -> None:
    sampler = make_sampler("categorical")
    logits = make_logits(2)
    logits[0, 77] = math.nan
    logits[1] = -INF
    chosen = sampler.choose(logits, [make_row("categorical")] * 2)
    assert chosen[0] == 77
    assert logits[1, chosen[1]] == -INF


def test_only_what_a_request_asks_for_is_active() -> None:
    def active(**fields) -> list[str]:
        known = {
            name: spec.params(**{f: v for f, v in fields.items() if f in spec.params.model_fields})
            for name, spec in SPECS.items()
        }
        return [name for name, spec in SPECS.items() if spec.is_active(known[name])]

    assert active() == ["categorical"]
    assert active(temperature=0.0, top_k=5, top_p=0.5, min_p=0.5) == ["greedy"]
    assert active(temperature=0.5, top_k=5, top_p=0.5, min_p=0.5) == [
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "categorical",
    ]
    assert active(repetition_penalty=1.1, presence_penalty=1, logit_bias={1: 1}) == [
        "logit_bias",
        "repetition_penalty",
        "presence_frequency",
        "categorical",
    ]


@pytest.mark.parametrize("name", ["top_k", "top_p"])
def test_filters_hide_no_nan(name) -> None:
    logits = make_logits(3).round()
    logits[1, 77] = math.nan
    logits[2] = -INF
    edited = apply(name, logits, [make_row(name, **{name: {"top_k": 30, "top_p": 0.9}[name]})] * 3)
    assert make_sampler("categorical").choose(edited, [make_row("categorical")] * 3)[1] == 77
    assert edited[0].isfinite().any()
    assert edited[2].max() == -INF


def make_served_ops() -> KernelTable:
    """References that pass for a kernel's, so that the samplers of several in one stand in."""
    choices = [KernelChoice(op=op, kernel="fast", plugin="somebody") for op in SAMPLING_OPS]
    return KernelTable(vars_of(OPS), tuple(choices))


def vars_of(table: KernelTable) -> dict:
    return {op: getattr(table, op) for op in SAMPLING_OPS}


def test_on_a_cpu_the_twins_run_and_with_kernels_the_ops() -> None:
    fusers = [spec for spec in SPECS.values() if spec.fuses]
    assert {spec.name for spec in fusers} == set(SAMPLING_OPS)
    assert [spec.make(VOCAB_SIZE, CPU, OPS) for spec in fusers] == [None] * 3
    served = make_served_ops()
    assert all(spec.make(VOCAB_SIZE, CPU, served) is not None for spec in fusers)


def fused_row(name: str, parts, prompt=(), output=(), seed=0) -> SamplerRow:
    row = SamplerRow(None, prompt, output, seed, len(prompt) + len(output))
    known = {part: SPECS[part].params(**params) for part, params in parts.items()}
    row.params = SPECS[name].fuse(known)
    return row


FUSED = {
    "filter_tokens": [
        {"top_k": {"top_k": 60}, "top_p": {"top_p": 0.8}, "min_p": {"min_p": 0.05}},
        {"top_p": {"top_p": 0.5}},
        {"top_k": {"top_k": 5000}, "min_p": {"min_p": 0.2}},
        {"top_k": {"top_k": 7}},
    ],
    "penalise_tokens": [
        {
            "repetition_penalty": {"repetition_penalty": 1.3},
            "presence_frequency": {"presence_penalty": 0.4, "frequency_penalty": 0.2},
        },
        {"presence_frequency": {"frequency_penalty": -0.5}},
        {"repetition_penalty": {"repetition_penalty": 0.7}},
    ],
    "choose_tokens": [
        {"greedy": {"temperature": 0}},
        {"temperature": {"temperature": 0.6}, "categorical": {"temperature": 0.6}},
        {"categorical": {"temperature": 0.6}},
    ],
}


@pytest.mark.parametrize("name", FUSED)
def test_several_in_one_are_these_one_after_the_other(name) -> None:
    parts = [SPECS[part] for part in SPECS[name].fuses]
    check_fused_sampler(SPECS[name], parts, FUSED[name], vocab_size=VOCAB_SIZE)


def test_greedy_scaled_and_plain_rows_are_chosen_in_one_pass() -> None:
    logits = make_logits(3, 1.0)
    parts = [
        {"greedy": {"temperature": 0}},
        {"temperature": {"temperature": 0.6}, "categorical": {"temperature": 0.6}},
        {"categorical": {"temperature": 0.6}},  # a filter stands between: it is scaled already
    ]
    rows = [fused_row("choose_tokens", each, seed=9) for each in parts]
    sampler = SPECS["choose_tokens"].make(VOCAB_SIZE, CPU, make_served_ops())
    scaled = logits.clone()
    scaled[0] *= 1e9
    scaled[1] /= 0.6
    assert sampler.choose(logits, rows).equal(find_highest_scores(scaled, rows))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", ["top_k", "top_p", "categorical", "greedy"])
def test_a_gpu_chooses_what_a_cpu_chooses(name) -> None:
    logits, device = make_hard_logits(), torch.device("cuda")
    value = {"top_k": {"top_k": 50}, "top_p": {"top_p": 0.9}}.get(name, {})
    rows = [make_row(name, seed=i, **value) for i in range(8)]
    ours, theirs = make_sampler(name, 50_257), SPECS[name].make(50_257, device, OPS)
    if name in {"categorical", "greedy"}:
        on_gpu = theirs.choose(logits.to(device), rows)
        assert on_gpu.cpu().equal(ours.choose(logits, rows))
    else:
        on_gpu = logits.to(device)
        theirs.apply(on_gpu, rows)
        ours.apply(logits, rows)
        assert on_gpu.cpu().equal(logits)
