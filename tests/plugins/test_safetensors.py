"""Safetensors folders: whole, sharded, damaged, and the files of their tokenizers."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from llmplug import CheckpointError
from llmplug.testing import check_loader
from llmplug_safetensors import llmplug_model_loaders
from tests import tiny

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def loader():
    (spec,) = llmplug_model_loaders()
    return spec


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny.make_checkpoint("llama", tmp_path_factory.mktemp("original"))


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


def change_json(path, **changes):
    """Set fields of a JSON file; None removes one."""
    fields = {**(json.loads(path.read_text()) if path.exists() else {}), **changes}
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))


def shard(folder, num_shards: int = 3) -> dict[str, str]:
    """Split model.safetensors into shards with an index, as the hub has them."""
    tensors = load_file(folder / "model.safetensors")
    file_of = {}
    for number in range(num_shards):
        name = f"model-{number + 1:05}-of-{num_shards:05}.safetensors"
        names = list(tensors)[number::num_shards]
        save_file({key: tensors[key] for key in names}, folder / name)
        file_of |= dict.fromkeys(names, name)
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": file_of}))
    return file_of


# --- weights ------------------------------------------------------------------------------------
def test_what_holds_for_every_loader(loader, original):
    tensors = load_file(original / "model.safetensors")
    check_loader(loader, original, tensors=tensors)
    check_loader(loader, original / "model.safetensors", tensors=tensors)


def test_config_and_tensors_equal_the_files(loader, original):
    checkpoint = loader.open(original)
    assert checkpoint.path == original
    assert checkpoint.config == json.loads((original / "config.json").read_text())
    assert checkpoint.generation_config["eos_token_id"] == tiny.EOS_ID
    expected = load_file(original / "model.safetensors")
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in expected.items():
        lazy = checkpoint.tensors[name]
        assert (lazy.shape, lazy.format, lazy.num_bytes) == (
            tuple(tensor.shape), "F32", tensor.nbytes
        )  # fmt: skip
        assert torch.equal(lazy.load(), tensor)
        assert torch.equal(lazy.raw().view(torch.float32).view(tensor.shape), tensor)


def test_of_rows_no_more_is_read(loader, folder):
    """Of the mapped file, the pages of the others stay where they are."""
    save_file({"x": torch.ones(256, 64 * 1024)}, folder / "model.safetensors")
    part = loader.open(folder).tensors["x"].slice(0, 128, 256)
    size = 4 * 256 * 64 * 1024
    before = count_resident_bytes(folder / "model.safetensors")
    assert part.load().sum() == size / 8
    read = count_resident_bytes(folder / "model.safetensors") - before
    assert 0.49 < read / size < 0.6  # where a page is missing, some beside it come along


def test_columns_are_copied_together(loader, original):
    tensor = loader.open(original).tensors["model.layers.0.mlp.down_proj.weight"]
    part = tensor.slice(1, 20, 40).slice(0, 5, 9).load()
    assert torch.equal(part, tensor.load()[5:9, 20:40])
    assert part.is_contiguous()


def count_resident_bytes(path) -> int:
    """Bytes of a mapped file that this process has touched."""
    total, is_file = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_file = line.endswith(str(path))
        elif is_file and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_shards_equal_the_whole(loader, original, folder):
    file_of = shard(folder)
    whole, sharded = loader.open(original), loader.open(folder)
    assert set(sharded.tensors) == set(whole.tensors)
    for name in whole.tensors:
        assert torch.equal(sharded.tensors[name].load(), whole.tensors[name].load())
    read = {path.name for path in sharded.files}
    assert read == {*file_of.values(), INDEX, "config.json", "generation_config.json",
                    "tokenizer.json", "tokenizer_config.json"}  # fmt: skip


def test_one_weight_file_may_be_named(loader, original):
    path = original / "model.safetensors"
    assert loader.claims(path)
    checkpoint = loader.open(path)
    assert checkpoint.config["architectures"] == ["LlamaForCausalLM"]
    assert checkpoint.tokenizer.eos_token == "<|im_end|>"
    assert set(checkpoint.tensors) == set(load_file(path))


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.bfloat16, "BF16"), (torch.float16, "F16"), (torch.float64, "F64"),
        (torch.float8_e4m3fn, "F8_E4M3"), (torch.float8_e5m2, "F8_E5M2"), (torch.int8, "I8"),
        (torch.int64, "I64"), (torch.bool, "BOOL"),
    ],
)  # fmt: skip
def test_every_format_is_reported_as_stored(loader, folder, dtype, name):
    tensor = torch.arange(-12, 12).view(4, 6).to(dtype)
    save_file(
        {"x": tensor, "vector": tensor[0].clone(), "empty": tensor[:0].clone()},
        folder / "model.safetensors",
    )
    tensors = loader.open(folder).tensors
    for key, expected in (("x", tensor), ("vector", tensor[0]), ("empty", tensor[:0])):
        lazy = tensors[key]
        assert (lazy.format, lazy.shape, lazy.num_bytes) == (
            name, tuple(expected.shape), expected.nbytes
        )  # fmt: skip
        loaded = lazy.load()
        assert loaded.dtype == dtype
        assert torch.equal(loaded.view(torch.uint8), expected.contiguous().view(torch.uint8))
    assert tensors["x"].raw().shape == (4, 6 * tensor.element_size())


@pytest.mark.parametrize("old", [True, False])
def test_the_dtype_goes_by_its_new_name(loader, folder, old):
    names = {"torch_dtype": "bfloat16", "dtype": None} if old else {"dtype": "bfloat16"}
    change_json(folder / "config.json", **names)
    assert loader.open(folder).config["dtype"] == "bfloat16"


# --- what is refused ----------------------------------------------------------------------------
def test_every_truncation_of_the_header_is_a_checkpoint_error(loader, folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for size in [*range(0, 300, 7), len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged or truncated"):
            loader.open(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        b'{"x":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        b'{"x":{"dtype":"F32","shape":[9999999999999],"data_offsets":[0,4]}}',
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
        b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,400]}}',
    ],
)
def test_damaged_headers(loader, folder, header):
    data = len(header).to_bytes(8, "little") + header + bytes(4)
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        loader.open(folder)


def test_a_missing_shard_is_named(loader, folder):
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="1 of 3 weight files are missing: model-00002-of"):
        loader.open(folder)


def test_an_index_that_names_an_absent_tensor(loader, folder):
    file_of = shard(folder)
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {**file_of, "ghost": next(iter(file_of.values()))}})
    )
    with pytest.raises(CheckpointError, match="lacks ghost"):
        loader.open(folder)


def test_a_tensor_in_two_shards(loader, folder):
    file_of = shard(folder)
    first, second = sorted(set(file_of.values()))[:2]
    tensors = load_file(folder / second)
    name = next(name for name, file in file_of.items() if file == first)
    save_file({**tensors, name: torch.zeros(1)}, folder / second)
    with pytest.raises(CheckpointError, match=f"{name} is in another file too"):
        loader.open(folder)


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "..", "", "x.bin", 3, None,
     "..\\x.safetensors"],
)  # fmt: skip
def test_an_index_cannot_lead_out_of_the_folder(loader, folder, name):
    shutil.copy(folder / "model.safetensors", folder.parent / "x.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(CheckpointError, match=r"is not the name of a \.safetensors file"):
        loader.open(folder)


@pytest.mark.parametrize("weight_map", [None, {}, [], "x"])
def test_an_index_without_a_map(loader, folder, weight_map):
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="has no weight_map"):
        loader.open(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_never_loaded(loader, folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.")
    assert loader.claims(folder)
    with pytest.raises(CheckpointError, match=r"never loaded.*save_pretrained") as caught:
        loader.open(folder)
    assert name in str(caught.value)


def test_adapters_and_empty_folders_are_refused(loader, folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors; an adapter must be"):
        loader.open(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        loader.open(folder)
    assert not loader.claims(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert not loader.claims(tmp_path / "empty")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "config.json: missing"),
        ("{", "config.json: damaged JSON"),
        ("[" * 100_000, "config.json: damaged JSON"),
        ("[]", "holds list, not a JSON object"),
        ("{}", "architectures must name the model's class, not None"),
        ('{"architectures": []}', "architectures must name"),
        ('{"architectures": [3]}', "architectures must name"),
        (b"\xff\xfe", "config.json: cannot be read"),
    ],
)
def test_damaged_configs(loader, folder, text, message):
    path = folder / "config.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=message):
        loader.open(folder)


# --- tokenizers ---------------------------------------------------------------------------------
def test_the_tokenizer_equals_its_files(loader, original):
    files = loader.open(original).tokenizer
    assert (files.bos_token, files.eos_token, files.add_bos) == (
        "<|endoftext|>", "<|im_end|>", None
    )  # fmt: skip
    assert files.chat_template == tiny.CHAT_TEMPLATE
    assert files.json == (original / "tokenizer.json").read_text()


@pytest.mark.parametrize("form", ["text", "object", "special_tokens_map"])
def test_special_tokens_in_every_form(loader, folder, form):
    path = folder / "tokenizer_config.json"
    pad = {"__type": "AddedToken", "content": "<|im_start|>", "special": True}
    change_json(path, bos_token=None)
    if form == "special_tokens_map":
        change_json(folder / "special_tokens_map.json", bos_token="<|endoftext|>", pad_token=pad,
                    eos_token="<|endoftext|>")  # fmt: skip
    else:
        bos = "<|endoftext|>"
        change_json(path, bos_token=bos if form == "text" else {"content": bos}, pad_token=pad)
    files = loader.open(folder).tokenizer
    assert files.bos_token == "<|endoftext|>"
    assert files.eos_token == "<|im_end|>"  # tokenizer_config.json wins
    assert files.special_tokens == {"pad_token": "<|im_start|>"}


@pytest.mark.parametrize(("given", "expected"), [(True, True), (False, False), (None, None)])
def test_add_bos(loader, folder, given, expected):
    change_json(folder / "tokenizer_config.json", add_bos_token=given)
    assert loader.open(folder).tokenizer.add_bos is expected


def test_templates_from_every_place_equal_transformers(loader, folder):
    from transformers import AutoTokenizer

    def compare(default, named):
        files = loader.open(folder).tokenizer
        assert (files.chat_template, dict(files.named_templates)) == (default, named)
        reference = AutoTokenizer.from_pretrained(folder).chat_template
        everything = {"default": default, **named} if default is not None else named
        assert reference == (everything if named else default)

    config = folder / "tokenizer_config.json"
    compare(tiny.CHAT_TEMPLATE, {})
    entries = [{"name": "default", "template": "A"}, {"name": "rag", "template": "B"}]
    change_json(config, chat_template=entries)
    compare("A", {"rag": "B"})
    change_json(config, chat_template=None)
    compare(None, {})
    (folder / "chat_template.jinja").write_text("C\n")
    compare("C\n", {})
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("D")
    compare("C\n", {"tool_use": "D"})
    change_json(config, chat_template="old")
    compare("C\n", {"tool_use": "D"})


def test_added_tokens_that_only_the_config_lists_equal_transformers(loader, folder):
    from transformers import AutoTokenizer

    first = tiny.NUM_TOKENS
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    listed = {
        str(first): {"content": "<tool>", "special": False, **flags},
        str(first + 1): {"content": "<end>", "special": True, **flags},
    }
    change_json(folder / "tokenizer_config.json", added_tokens_decoder=listed)
    ours = Tokenizer.from_str(loader.open(folder).tokenizer.json)
    reference = AutoTokenizer.from_pretrained(folder)
    text = "a<tool>b<end><|im_end|>"
    ids = reference(text, add_special_tokens=False).input_ids
    assert ours.encode(text).ids == ids
    assert {first, first + 1} <= set(ids)
    assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_a_special_token_that_tokenizer_json_does_not_list_is_found_whole(loader, folder):
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text())
    # The vocabulary has the token, but nothing says that it is one to look for in texts.
    description["model"]["vocab"] |= {t["content"]: t["id"] for t in description["added_tokens"]}
    description["model"]["vocab"]["<s>"] = tiny.NUM_TOKENS
    path.write_text(json.dumps(description))
    change_json(folder / "tokenizer_config.json", bos_token="<s>")
    ours = Tokenizer.from_str(loader.open(folder).tokenizer.json)
    assert tiny.NUM_TOKENS in ours.encode("a<s>b").ids


def test_added_tokens_with_gaps_are_refused(loader, folder):
    listed = {"999": {"content": "<far>", "special": True}}
    change_json(folder / "tokenizer_config.json", added_tokens_decoder=listed)
    with pytest.raises(CheckpointError, match=r"'<far>' has the id 999 in .*, but 259 is the next"):
        _ = loader.open(folder).tokenizer


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", None, r"tokenizer\.json is missing; make one"),
        ("tokenizer.json", "{", "damaged tokenizer"),
        ("tokenizer.json", "{}", "damaged tokenizer"),
        ("tokenizer_config.json", "[", "damaged JSON"),
        ("tokenizer_config.json", '{"bos_token": 3}', "bos_token is 3"),
        ("tokenizer_config.json", '{"chat_template": 3}', "neither text nor a list"),
        ("tokenizer_config.json", '{"chat_template": [3]}', "chat_template is damaged"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', "damaged at 'x'"),
    ],
)
def test_damaged_tokenizer_files(loader, folder, name, text, message):
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    checkpoint = loader.open(folder)
    with pytest.raises(CheckpointError, match=message):
        _ = checkpoint.tokenizer
