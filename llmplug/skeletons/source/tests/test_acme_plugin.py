import tarfile
from pathlib import Path

import pytest

from llmplug import SourceError

from acme_plugin import llmplug_sources


def note(stage: str, done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    model = tmp_path / "config.json"
    model.write_text('{"architectures": ["SomeForCausalLM"]}')
    path = tmp_path / "model.tar"
    with tarfile.open(path, "w") as file:
        file.add(model, arcname="config.json")
    return path


def test_what_is_fetched_is_found(archive: Path, tmp_path: Path) -> None:
    (spec,) = llmplug_sources()
    cache = tmp_path / "cache"
    assert spec.find(str(archive), cache) is None
    place = spec.fetch(str(archive), cache, note)
    assert (place / "config.json").read_text() == (tmp_path / "config.json").read_text()
    archive.unlink()  # from now on nothing is needed but the cache
    assert spec.find(str(archive), cache) == place


def test_what_breaks_off_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    (spec,) = llmplug_sources()
    cache = tmp_path / "cache"
    archive.write_bytes(archive.read_bytes()[:600])
    with pytest.raises(SourceError, match="model.tar"):
        spec.fetch(str(archive), cache, note)
    assert spec.find(str(archive), cache) is None
    assert not list((cache / "acme_plugin").iterdir())
