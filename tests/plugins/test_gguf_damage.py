"""GGUF files that are damaged or lie: each is read, or refused by name."""

import struct

import pytest

from llmplug import CheckpointError
from llmplug_gguf import llmplug_model_loaders
from tests.plugins.gguf_files import TOKENS, write_gguf


@pytest.fixture(scope="module")
def loader():
    (spec,) = llmplug_model_loaders()
    return spec


@pytest.fixture(scope="module")
def small_file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    fields = {"tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.token_type": [3, 3, 3, 1, 1]}
    return write_gguf(path, fields=fields, tokens=TOKENS).read_bytes()


def test_every_truncation_is_a_checkpoint_error(loader, tmp_path, small_file):
    path = tmp_path / "cut.gguf"
    for size in range(len(small_file)):
        path.write_bytes(small_file[:size])
        assert loader.claims(path)
        with pytest.raises(CheckpointError) as caught:
            loader.open(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def open_or_refuse(loader, path):
    try:
        return loader.open(path).config["architectures"]
    except CheckpointError as error:
        return str(error)


def test_every_changed_byte_is_read_or_a_checkpoint_error(loader, tmp_path, small_file):
    path = tmp_path / "changed.gguf"
    data = bytearray(small_file)
    for offset in range(len(data) - 160):  # the last 160 bytes are the one tensor's numbers
        for value in (0xFF, 0x00, 0x80):
            before, data[offset] = data[offset], value
            path.write_bytes(data)
            outcome = open_or_refuse(loader, path)
            assert outcome == ["LlamaForCausalLM"] or str(path) in outcome
            data[offset] = before


def test_truncations_of_the_real_file(loader, tmp_path, smollm2_gguf):
    with smollm2_gguf.open("rb") as file:
        head = file.read(4_000_000)
    path = tmp_path / "cut.gguf"
    for size in [0, 3, 4, 23, 24, 100, 1000, 10_000, 500_000, 1_000_000, 1_800_000, 4_000_000]:
        path.write_bytes(head[:size])
        with pytest.raises(CheckpointError, match=r"truncated|cannot be read"):
            loader.open(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\3\4" + bytes(60), "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(60), "version 1 is not supported"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(60), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63) + bytes(60), "damaged or truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0) + bytes(60), "damaged or truncated"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**64 - 1), "ends"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 99), "unknown type 99"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 4, 2**62), "ends"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "array of arrays"),
        (b"GGUF" + struct.pack("<IQQQ1sIQ1s", 3, 0, 1, 1, b"k", 8, 1, b"\xff"), "not UTF-8"),
        (
            b"GGUF" + struct.pack("<IQQQ1sIQQIQ", 3, 1, 0, 1, b"t", 2, 2**40, 2**40, 0, 0),
            "tensor t, which has",
        ),
        (
            b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 32, 999, 0),
            "tensor t has the unknown type 999",
        ),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"t", 2**31), "dimensions"),
        (
            b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 31, 2, 0),
            r"of type Q4_0 has the shape \(31,\)",
        ),
    ],
)
def test_damaged_headers(loader, tmp_path, data, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        loader.open(path)
