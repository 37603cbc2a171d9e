"""A published model in float32: greedy tokens equal transformers' for 64 tokens on many prompts.

The engine is the one that a config makes: planned in `assemble`, made in `build`, chat rendered by
its own template. Transformers reads the same dequantised weights. To decode a prompt it needs about
ten times as long as to read what the engine said and to name its own best token at each place,
which decides the same; so it reads all, and decodes some to show that both agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.fake_model import drain, make_request, output_of
from tiny import load_reference_of, reference_logits

from llmplug import assemble
from llmplug.build import build_engine
from llmplug.config import parse
from llmplug.engine.engine import Engine
from llmplug.plan import ModelPlan

pytestmark = pytest.mark.slow

NUM_TOKENS = 64
# Where the two best tokens of the reference are nearer than this, the order of a float32 sum
# decides between them: 30 layers deep, with logits near 20, it is worth about 1e-4.
TIE = 2e-4
# The default cache rounds keys and values to 11 bits. Of 1280 tokens one was another than the
# reference's, whose own best one it rated 4e-3 higher.
TIE_OF_HALF_PRECISION = 1e-2
# Each op in torch, the linear layers by oneDNN: what transformers computes with.
EXACT = ("avx2",)
CONFIG = """
models:
  - source: {source}
    name: small
    device: cpu
    dtype: float32
    context_length: 320
    weights: {{format: float32}}
    cache: {{memory: 512MiB, dtype: {cache}}}
    kernels: {{block: [{block}]}}
    scheduler:
      max_sequences: {sequences}
      max_batch_tokens: {tokens}
      prefill_chunk: {chunk}
"""

CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "写一首关于春天的短诗。"}],
    [{"role": "user", "content": "Explain photosynthesis to a child, with an emoji 🌱."}],
    [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "Which planet is the largest?"},
    ],
    [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada! How can I help you?"},
        {"role": "user", "content": "Write a function that greets me by name."},
    ],
)
STORY = (
    "The old lighthouse stood at the end of the harbour, where the fishing boats came home in the "
    "evening. Its keeper, a quiet woman called Marta, had climbed the hundred and twelve steps "
    "every day for thirty years. She knew each stone, each crack, and the sound that the wind made "
    "before a storm. One night in November the lamp went out, and "
    "nobody in the village could remember that this had ever happened before. "
)
TEXTS = (
    "Once upon a time",
    "The",
    "The capital of France is",
    "def quicksort(items: list[int]) -> list[int]:\n    ",
    "#include <stdio.h>\n\nint main(void) {\n\tfor (int i = 0; i < 10; i++) {\n",
    '{"name": "Ada", "born": 1815, "languages": [',
    "<html>\n  <body>\n    <h1>Welcome</h1>\n",
    "日本の首都は東京です。東京は",
    "机器学习是人工智能的一个分支，",
    "대한민국의 수도는",
    "🎉🎂🥳 Happy birthday! 👩‍👩‍👧‍👦 🇫🇷",
    "Der schnelle braune Fuchs springt über den faulen Hund, während",
    "   \n\n\t  indented and spaced   out   ",
    STORY,
    STORY * 2 + "In the morning Marta took her coat and",
)


class Reference:
    """Transformers' model, which rates what others say after the prompts."""

    def __init__(self, model: Any, prompts: list[list[int]]) -> None:
        self.model, self.prompts = model, prompts
        self._known: dict[tuple[int, ...], torch.Tensor] = {}  # rating a text once is enough

    def rate(self, prompt: list[int], output: list[int]) -> torch.Tensor:
        """Return by how much each token's logit is below the best one after the same tokens."""
        key = (*prompt, *output)
        if key not in self._known:
            logits_TV = reference_logits(self.model, list(key))[len(prompt) - 1 : -1]
            chosen_T = logits_TV.gather(1, torch.tensor(output)[:, None])[:, 0]
            self._known[key] = logits_TV.amax(1) - chosen_T
        return self._known[key]

    @torch.inference_mode()
    def decode(self, prompt: list[int]) -> list[int]:
        """Decode greedily, alone, with a cache, past every end of text."""
        ids = torch.tensor([prompt])
        output = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        tokens: list[int] = output[0, len(prompt) :].tolist()
        return tokens


MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Threads that wait for each other on cores that others use too are ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plan(source: Path, *, block: Sequence[str], **changes: Any) -> tuple[ModelPlan, Any]:
    defaults = {"cache": "float32", "sequences": 16, "tokens": 256, "chunk": 256}
    values = {**defaults, **changes, "source": source, "block": ", ".join(block)}
    config = parse(CONFIG.format(**values))
    registry = assemble.load_registry(config)
    return assemble.plan_model(config.models[0], registry, ignore_progress), registry


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Tests draw no bars."""


@pytest.fixture(scope="module")
def make_engine(smollm2_gguf: Path) -> MakeEngine:
    def make(block: Sequence[str] = EXACT, **changes: Any) -> Engine:
        planned, registry = plan(smollm2_gguf, block=block, **changes)
        return build_engine(planned, registry, ignore_progress)

    return make


@pytest.fixture(scope="module")
def reference(smollm2_gguf: Path) -> Reference:
    planned, _ = plan(smollm2_gguf, block=())
    assert planned.renderer is not None
    prompts = [planned.renderer.render(chat) for chat in CHATS]
    prompts += [planned.tokenizer.encode(text) for text in TEXTS]
    return Reference(load_reference_of(planned.checkpoint), prompts)


def run(engine: Engine, prompts: Sequence[list[int]]) -> list[list[int]]:
    """Decode all prompts in one batch, as far as the engine's settings let them be one."""
    for i, prompt in enumerate(prompts):
        engine.add(make_request(str(i), prompt, max_tokens=NUM_TOKENS, ignore_eos=True))
    found = drain(engine)
    assert engine.stats.num_pages_used == 0
    return [output_of(found[str(i), 0]) for i in range(len(prompts))]


def check(
    reference: Reference,
    prompts: Sequence[list[int]],
    outputs: Sequence[list[int]],
    tie: float = TIE,
) -> None:
    """Check that each token is transformers' own best one after the tokens before it.

    Another token is accepted only where it is a tie: the reference's own logits of the two, after
    the very same tokens, are within `tie`.
    """
    for prompt, output in zip(prompts, outputs, strict=True):
        assert len(output) == NUM_TOKENS
        behind_T = reference.rate(prompt, output)
        for place in behind_T.nonzero()[:, 0].tolist():
            print(f"{prompt[:6]}...: a tie at {place}, {float(behind_T[place]):.1e} behind")
        assert float(behind_T.max()) <= tie, (prompt, output, behind_T)


def test_prompts_are_many_and_mixed(reference: Reference) -> None:
    lengths = [len(prompt) for prompt in reference.prompts]
    assert len(lengths) >= 20
    assert min(lengths) == 1
    assert max(lengths) >= 180


@pytest.mark.parametrize(
    ("block", "sequences", "chunk", "tokens"),
    [(EXACT, 16, 32, 64), ((), 20, 7, 31), ((), 20, 1, 20)],
    ids=["16-chunk32-exact", "20-chunk7-installed", "20-chunk1-installed"],
)
def test_in_batches(
    block: tuple[str, ...],
    sequences: int,
    chunk: int,
    tokens: int,
    make_engine: MakeEngine,
    reference: Reference,
) -> None:
    engine = make_engine(block=block, sequences=sequences, chunk=chunk, tokens=tokens)
    check(reference, reference.prompts, run(engine, reference.prompts))


def test_in_batches_as_it_is_served(make_engine: MakeEngine, reference: Reference) -> None:
    """All installed kernels, and the cache that is the default."""
    outputs = run(make_engine(block=(), cache="auto", sequences=24), reference.prompts)
    check(reference, reference.prompts, outputs, TIE_OF_HALF_PRECISION)


def test_alone_with_all_installed_kernels(make_engine: MakeEngine, reference: Reference) -> None:
    engine = make_engine(block=())
    outputs = [run(engine, [prompt])[0] for prompt in reference.prompts]
    check(reference, reference.prompts, outputs)


def test_alone_also_equals_what_transformers_decodes(
    make_engine: MakeEngine, reference: Reference
) -> None:
    """Up to the first tie that transformers reads, if there is one, it decodes the same too."""
    engine = make_engine()
    for prompt in reference.prompts[2::9]:
        (output,) = run(engine, [prompt])
        check(reference, [prompt], [output])
        ties = reference.rate(prompt, output).nonzero()[:, 0].tolist()
        end = ties[0] if ties else NUM_TOKENS
        assert reference.decode(prompt)[:end] == output[:end]
