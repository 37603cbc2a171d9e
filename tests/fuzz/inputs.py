"""Inputs that are damaged or lie, and what reads them: it may refuse them, and nothing else."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmplug_gguf
import llmplug_safetensors
from llmplug.chat.tokenizer import Tokenizer
from llmplug.config import parse
from llmplug.errors import LlmplugError
from llmplug.server.body import read_json
from llmplug.specs import TokenizerFiles
from tests.tiny import make_tokenizer

bounded = settings(
    max_examples=100,
    deadline=3000,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
INTEGERS = st.sampled_from([0, 1, -1, 7, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64, 10**30])
SCALARS = INTEGERS | st.floats() | st.text(max_size=9) | st.booleans() | st.none()
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def refuse_or_read(read: Callable[[], Any]) -> None:
    """Read something; an error of ours is a refusal, any other one ends the test."""
    with suppress(LlmplugError):
        read()


def fuzz_json_bodies(_: Path) -> None:
    parts = st.sampled_from(
        [b'{"a":', b"[", b"]", b"}", b'"', b",", b"1", b"e9", b"-", b".", b"\\ud800", b"\xff",
         b"\0", b"nul", b"NaN", b"1" * 400, b"\xef\xbb\xbf", b" ", b"[" * 5000, b'{"a":' * 5000]
    )  # fmt: skip
    texts = st.lists(parts, max_size=12).map(b"".join)
    dumped = JSON_VALUES.map(lambda value: json.dumps(value).encode())

    @bounded
    @given(texts | dumped | st.binary(max_size=60))
    def run(body: bytes) -> None:
        refuse_or_read(lambda: read_json(body))

    run()


def fuzz_safetensors(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["X"], "model_type": "x"}')
    make_tokenizer(folder)
    entry = st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "F4", "I64", "X", 5]) | SCALARS,
            "shape": st.lists(INTEGERS, max_size=4) | SCALARS,
            "data_offsets": st.lists(INTEGERS, min_size=1, max_size=3) | SCALARS,
        },
    )
    headers = st.dictionaries(
        st.sampled_from(["a.weight", "b.weight", "__metadata__", "", "\0"]),
        entry | st.dictionaries(st.text(max_size=3), st.text(max_size=3)) | SCALARS,
        max_size=3,
    )
    lengths = st.none() | INTEGERS.filter(lambda number: 0 <= number < 2**64)

    @bounded
    @given(headers | JSON_VALUES, lengths, st.binary(max_size=64))
    def run(header: Any, length: int | None, data: bytes) -> None:
        text = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(
            struct.pack("<Q", len(text) if length is None else length) + text + data
        )
        refuse_or_read(lambda: load_all(llmplug_safetensors.llmplug_model_loaders()[0], folder))

    run()


def fuzz_indexes(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["X"], "model_type": "x"}')
    names = st.sampled_from(
        ["a.safetensors", "../a.safetensors", "/etc/passwd", "a.bin", "", ".", "a\0b", "x" * 5000]
    )
    maps = st.dictionaries(st.text(max_size=5), names | SCALARS, max_size=4)
    indexes = st.fixed_dictionaries({}, optional={"weight_map": maps | JSON_VALUES})

    @bounded
    @given((indexes | JSON_VALUES).map(json.dumps) | st.text(max_size=40))
    def run(text: str) -> None:
        path = folder / "model.safetensors.index.json"
        path.write_text(text, encoding="utf-8", errors="replace")
        refuse_or_read(lambda: load_all(llmplug_safetensors.llmplug_model_loaders()[0], folder))

    run()


def fuzz_model_configs(folder: Path) -> None:
    (spec,) = llmplug_safetensors.llmplug_model_loaders()
    names = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json",
             "special_tokens_map.json", "added_tokens.json")  # fmt: skip
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    keys = st.sampled_from(
        ["architectures", "model_type", "vocab_size", "hidden_size", "num_hidden_layers",
         "eos_token_id", "bos_token", "chat_template", "added_tokens_decoder", "model",
         "quantization_config", "torch_dtype", "add_bos_token", "text_config"]
    )  # fmt: skip
    texts = st.dictionaries(keys, JSON_VALUES, max_size=5).map(json.dumps) | st.text(max_size=30)

    @bounded
    @given(st.dictionaries(st.sampled_from(names), texts, max_size=4))
    def run(files: dict[str, str]) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8", errors="replace")
        refuse_or_read(lambda: load_all(spec, folder))

    run()


def fuzz_gguf(folder: Path) -> None:
    path = folder / "model.gguf"
    counts = st.sampled_from([0, 1, 2, 7, 255, 2**32, 2**62, 2**64 - 1])
    kinds = st.integers(0, 13)

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    keys = st.sampled_from(
        [b"general.architecture", b"general.alignment", b"llama.block_count", b"k",
         b"llama.context_length", b"tokenizer.ggml.model", b"tokenizer.ggml.tokens",
         b"tokenizer.ggml.token_type", b"tokenizer.ggml.merges", b"tokenizer.ggml.eos_token_id",
         b"llama.attention.head_count", b"llama.rope.scaling.type", b"tokenizer.chat_template"]
    ).map(text)  # fmt: skip
    texts = st.sampled_from([b"llama", b"gpt2", b"", b"\xff", b"x" * 99, b"{{"]).map(text)
    numbers = st.tuples(kinds, st.binary(min_size=1, max_size=16)).map(
        lambda pair: struct.pack("<I", pair[0]) + pair[1]
    )
    lists = st.tuples(kinds, counts, st.binary(max_size=40)).map(
        lambda each: struct.pack("<IIQ", 9, each[0], each[1]) + each[2]
    )
    words = st.lists(texts, max_size=6).map(
        lambda each: struct.pack("<IIQ", 9, 8, len(each)) + b"".join(each)
    )
    values = numbers | lists | words | texts.map(lambda each: struct.pack("<I", 8) + each)
    fields = st.tuples(keys, values).map(b"".join)
    tensors = st.tuples(
        st.sampled_from([b"token_embd.weight", b"blk.0.attn_q.weight", b"t"]).map(text),
        st.lists(counts, max_size=5),
        st.integers(0, 45),
        counts,
    ).map(
        lambda each: (
            each[0]
            + struct.pack("<I", len(each[1]))
            + struct.pack(f"<{len(each[1])}Q", *each[1])
            + struct.pack("<IQ", each[2], each[3])
        )
    )

    @bounded
    @given(
        st.lists(fields, max_size=5), st.lists(tensors, max_size=3), st.none() | counts,
        st.binary(max_size=64),
    )  # fmt: skip
    def run(some: list[bytes], others: list[bytes], lie: int | None, data: bytes) -> None:
        counted = (len(others), len(some)) if lie is None else (lie, lie)
        head = b"GGUF" + struct.pack("<IQQ", 3, *counted)
        path.write_bytes(head + b"".join(some) + b"".join(others) + data)
        refuse_or_read(lambda: load_all(llmplug_gguf.llmplug_model_loaders()[0], path))

    run()


def fuzz_config_files(_: Path) -> None:
    pieces = st.sampled_from(
        ["server:", "models:", "\n", "  ", "- ", "source: x", "port: 8000", "host: ", "&a ", "*a",
         "[*a, *a]", "{", "}", "[", "]", "!!python/object:os.system ", "!!binary ", "<<: *a", "? ",
         ": ", "|", ">", "#", "---\n", "%YAML 9\n", "2024-13-01", "0x", "1e999", ".nan", "~", "\t",
         "'", '"', "\0", "é", "${HOME}", "[" * 3000, "{a: " * 3000, "- " * 3000]
    )  # fmt: skip

    @bounded
    @given(st.lists(pieces, max_size=14).map("".join) | st.text(max_size=40))
    def run(text: str) -> None:
        refuse_or_read(lambda: parse(text))

    run()


def fuzz_tokenizers(folder: Path) -> None:
    make_tokenizer(folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    parts = st.sampled_from(["model", "added_tokens", "normalizer", "pre_tokenizer", "decoder",
                             "post_processor", "version", "truncation", "padding"])  # fmt: skip
    kinds = st.sampled_from(
        ["BPE", "WordPiece", "Unigram", "WordLevel", "Split", "Replace", "ByteLevel", "Sequence"]
    )
    patterns = st.sampled_from(["(a+)+$", "(", "x" * 9999, "\\p{L}+", "(?=a)*"])
    values = JSON_VALUES | st.fixed_dictionaries(
        {"type": kinds},
        optional={
            "vocab": st.dictionaries(st.text(max_size=3), INTEGERS | SCALARS, max_size=3)
            | st.lists(st.tuples(st.text(max_size=2), st.floats()), max_size=3),
            "merges": st.lists(st.text(max_size=5) | st.lists(st.text(max_size=2)), max_size=3),
            "unk_id": INTEGERS,
            "unk_token": st.text(max_size=3) | st.none(),
            "pattern": st.fixed_dictionaries({}, optional={"Regex": patterns, "String": patterns}),
            "behavior": st.sampled_from(["Isolated", "Removed", "X"]),
            "invert": st.booleans(),
            "content": st.text(max_size=3),
            "pretokenizers": JSON_VALUES,
        },
    )

    @bounded
    @given(st.dictionaries(parts, values, max_size=3))
    def run(changes: dict[str, Any]) -> None:
        text = json.dumps({**whole, **changes})
        refuse_or_read(lambda: Tokenizer(TokenizerFiles(json=text)).encode("ab <|im_end|> c"))

    run()
    huge = {**whole["model"], "vocab": {**whole["model"]["vocab"], "zz": 2**31 - 1}}
    refuse_or_read(lambda: Tokenizer(TokenizerFiles(json=json.dumps({**whole, "model": huge}))))
    deep = '{"a":' * 100_000
    refuse_or_read(lambda: Tokenizer(TokenizerFiles(json=deep)))


def load_all(spec: Any, path: Path) -> None:
    """Open a checkpoint, and read whatever it says it has that is small."""
    checkpoint = spec.open(path)
    assert checkpoint.config is not None
    for tensor in checkpoint.tensors.values():
        if tensor.num_bytes < 2**20:
            tensor.load()
    _ = checkpoint.tokenizer, checkpoint.generation_config
