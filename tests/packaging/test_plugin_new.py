"""What `llmplug plugin new` writes works as it is written, in an environment of strangers.

Every kind is written, linted, built, installed beside the wheel that users get, passes its own
tests there and is listed as ok; a server of that environment then uses all of them.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import make_checkpoint, make_tokenizer

from llmplug.errors import PluginError
from llmplug.skeletons import KINDS, write_plugin
from tests.packaging.projects import Environment, run

pytestmark = pytest.mark.slow


def name_of(kind: str) -> str:
    return f"odd-{kind}"


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind."""
    home = tmp_path_factory.mktemp("projects")
    for kind in KINDS:
        write_plugin(kind, name_of(kind), home / kind)
    return {kind: home / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_it_lints(kind: str, projects: dict[str, Path]) -> None:
    run(sys.executable, "-m", "ruff", "check", "--no-cache", ".", cwd=projects[kind])
    run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".", cwd=projects[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_no_word_of_the_skeleton_is_left(kind: str, projects: dict[str, Path]) -> None:
    files = [path for path in projects[kind].rglob("*") if path.is_file()]
    assert {"pyproject.toml", "README.md", "test.yml"} <= {path.name for path in files}
    for path in files:
        if "__pycache__" not in path.parts:
            text = f"{path.relative_to(projects[kind])}\n{path.read_text()}"
            assert not {"acme", "KIND_WORDS"} & set(text.replace(".acme", "").split("_"))
            assert "acme-plugin" not in text
            assert "acme_plugin" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_its_own_tests(
    kind: str, projects: dict[str, Path], environment: Environment
) -> None:
    pytest_here = [environment.python, "-m", "pytest", "-q", "--import-mode=importlib"]
    output = run(*pytest_here, "tests", cwd=projects[kind], OMP_NUM_THREADS="1")
    assert " passed" in output


def test_all_are_listed_as_ok(environment: Environment) -> None:
    listed = {plugin["name"]: plugin for plugin in environment.list_plugins()}
    for kind in KINDS:
        plugin = listed[name_of(kind).replace("-", "_")]
        assert (plugin["state"], plugin["distribution"]) == ("ok", name_of(kind)), plugin
    environment.llmplug("plugins", "--check")


@pytest.fixture(scope="module")
def served(
    environment: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A server whose parts come from the written plugins."""
    folder = tmp_path_factory.mktemp("served")
    with environment.serve(write_config(folder), folder) as client:
        yield client


def write_config(folder: Path) -> dict[str, Any]:
    """Two models: one in an archive that the source unpacks, one in a file of the loader's."""
    tiny = make_checkpoint("llama", folder / "llama")
    settings = json.loads((tiny / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (tiny / "tokenizer_config.json").write_text(json.dumps(settings))
    for path in (tiny / "tokenizer.json", tiny / "tokenizer_config.json"):
        text = path.read_text().replace("<|im_start|>", "<|turn>").replace("<|im_end|>", "<turn|>")
        path.write_text(text)
    with tarfile.open(folder / "model.tar", "w") as archive:
        for path in tiny.iterdir():
            archive.add(path, arcname=path.name)
    write_seed_oss(folder / "seed.acme", folder / "seed")
    common = {"device": "cpu", "dtype": "float32", "cache": {"memory": "8MiB"}}
    return {
        "models": [
            {
                "source": f"odd_source:{folder / 'model.tar'}",
                "name": "first",
                "chat_template": "odd_chat_template",
                "tool_parser": "odd_tool_parser",
                "reasoning_parser": "odd_reasoning_parser",
                "grammar_backend": "odd_grammar",
                "kernels": {"block": ["avx2"]},
                **common,
            },
            {"source": str(folder / "seed.acme"), "name": "second", **common},
        ],
    }


def write_seed_oss(path: Path, folder: Path) -> None:
    import io
    import zipfile

    import numpy as np
    import torch
    from transformers import SeedOssConfig, SeedOssForCausalLM

    torch.manual_seed(0)
    config = SeedOssConfig(
        vocab_size=263,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        attention_bias=True,
        architectures=["SeedOssForCausalLM"],
    )
    make_tokenizer(folder)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config.to_dict()))
        archive.write(folder / "tokenizer.json", "tokenizer.json")
        for name, tensor in SeedOssForCausalLM(config).state_dict().items():
            stream = io.BytesIO()
            np.save(stream, tensor.float().numpy())
            archive.writestr(f"{name}.npy", stream.getvalue())


def ask(client: httpx.Client, model: str = "first", **fields: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 12}
    reply = client.post("/v1/chat/completions", json={**body, "temperature": 0, **fields})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def content_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_a_server_takes_every_part_from_them(served: httpx.Client) -> None:
    plain = content_of(ask(served))
    assert content_of(ask(served)) == plain
    assert content_of(ask(served, odd_sampler_strength=50.0)) != plain
    number = content_of(ask(served, structured_outputs={"regex": "[0-9]{3}"}))
    assert number.isdigit()
    assert len(number) == 3
    reply = served.post(
        "/v1/completions",
        json={"model": "second", "prompt": "hi", "max_tokens": 4, "temperature": 0},
    )
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["completion_tokens"] == 4


# --- what is refused ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["Acme", "acme_sampler", "../acme", "1acme", "acme-", ""])
def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="no name for a distribution"):
        write_plugin("sampler", name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(PluginError, match="exists already"):
        write_plugin("sampler", "odd-one", tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "kept"


def test_an_installed_module_is_not_shadowed(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="'json' is installed already"):
        write_plugin("sampler", "json", tmp_path / "new")
