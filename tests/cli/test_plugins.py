"""`llmplug plugins` shows the installed plugins as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmplug.cli import main
from llmplug.plugin_trials import try_plugin
from llmplug.plugins import HOOKS, find, load_all
from tests.fake_plugins import Site

GOOD = "@hookimpl\ndef llmplug_samplers(): return [sampler('mine')]\n"


def test_table_has_a_line_for_every_plugin(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("mine", GOOD)
    path = site.install("odd", "1 / 0", version="3.1")
    assert main(["plugins"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NAME", "DISTRIBUTION", "VERSION", "STATE", "MS", "HOOKS", "OFFERS"]
    rows = {line.split()[0]: line.split() for line in lines if not line.startswith(" ")}
    assert set(rows) == {one.name for one in find()}
    name, distribution, version, state, _ms, *rest = rows["mine"]
    assert (name, distribution, version, state) == ("mine", "dist-mine", "1.0", "ok")
    assert rest == ["samplers", "mine"]
    below = lines[next(i for i, line in enumerate(lines) if line.startswith("odd ")) + 1]
    number = len(path.read_text().splitlines())
    assert below == f"  ! ZeroDivisionError: division by zero ({path}:{number})"


def test_json_has_everything(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("odd", "1 / 0")
    assert main(["plugins", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["fingerprint"]) == 64
    rows = {row["name"]: row for row in report["plugins"]}
    assert rows["odd"]["state"] == "broken"
    assert "ZeroDivisionError" in rows["odd"]["traceback"]


def test_explain_tells_all_of_one(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    good, odd = site.install("mine", GOOD), site.install("odd", "1 / 0")
    assert main(["plugins", "--explain", "dist-mine:mine"]) == 0
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert told["state"] == "ok"
    assert told["code"] == str(good)
    assert told["offers"] == "sampler mine"
    assert main(["plugins", "--explain", "odd", "--check"]) == 1
    out = capsys.readouterr().out
    assert f'File "{odd}", line' in out
    assert "ZeroDivisionError: division by zero" in out
    assert main(["plugins", "--explain", "mime"]) == 2
    assert "no plugin 'mime' is installed; did you mean 'mine'?" in capsys.readouterr().err


def test_bundled_plugins_pass_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--check"]) == 0, capsys.readouterr().out


def test_bundled_plugins_pass_their_trials() -> None:
    report = load_all()
    assert {plugin.found.name: try_plugin(plugin) for plugin in report.plugins} == {
        plugin.found.name: [] for plugin in report.plugins
    }


TRIED = {
    "return [sampler('x', is_active=lambda params: True)]": (
        "sampler x: it is active for requests that say nothing to it"
    ),
    "return [sampler('x', is_active=lambda params: 1 / 0)]": "sampler x: it raised ZeroDivisionErr",
    "return [kernel('no_op', 'x')]": "kernel no_op/x: llmplug has no op 'no_op'",
    "return [replace(kernel('linear', 'x'), supports=lambda device, dtype: False)]": (
        "kernel linear/x: 'supports' gives False for cpu, float32"
    ),
    "return [replace(loader('x', '.x'), claims=lambda path: True)]": (
        "model loader x: it claims 'no-such-folder', which is not there"
    ),
    "return [replace(loader('x', '.x'), claims=lambda path: path.stat())]": (
        "model loader x: it raised FileNotFoundError"
    ),
    "return [replace(template('x'), source='{% if %}')]": "chat template x: the chat template has ",
    "return [replace(template('x'), fits=lambda texts: True)]": "chat template x: it fits a model",
    "return [ToolParserSpec(name='x', detect=lambda *_: 0.5, make=print)]": (
        "tool parser x: 'detect' gives 0.5, not an llmplug.dialect.Match"
    ),
}
HOOK_OF = {
    "sampler": "samplers",
    "kernel": "kernels",
    "model loader": "model_loaders",
    "chat template": "chat_templates",
    "tool parser": "tool_parsers",
}


@pytest.mark.parametrize("body", TRIED)
def test_check_tries_what_others_offer(
    site: Site, body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble = TRIED[body]
    hook = next(hook for noun, hook in HOOK_OF.items() if trouble.startswith(noun))
    code = "from dataclasses import replace\n"
    site.install("tried", f"{code}@hookimpl\ndef llmplug_{hook}(): {body}\n")
    assert main(["plugins", "--check"]) == 1
    assert f"\n  ! {trouble}" in capsys.readouterr().out
    assert main(["plugins", "--check", "--json", "--explain", "tried"]) == 1
    (row,) = json.loads(capsys.readouterr().out)["plugins"]
    assert row["state"] == "ok"
    assert row["troubles"][0].startswith(trouble)


def test_explain_tells_the_settings(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    code = """
    from pydantic import Field
    class Settings(BaseModel):
        depth: int = Field(3, description="How deep.")
    @hookimpl
    def llmplug_settings(): return Settings
    @hookimpl
    def llmplug_samplers(settings): return [sampler('mine')]
    """
    site.install("mine", code)
    assert main(["plugins", "--explain", "mine"]) == 0
    assert any(
        line.split() == ["settings", "depth:", "3", "How", "deep."]
        for line in capsys.readouterr().out.splitlines()
    )


def test_check_fails_for_a_problem_that_is_not_blocked(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("odd", "1 / 0")
    assert main(["plugins", "--check"]) == 1
    config = tmp_path / "x.yaml"
    config.write_text("models: [{source: a}]\n")
    block = ["--config", str(config), "--set", "plugins.block=[odd]"]
    capsys.readouterr()
    assert main(["plugins", *block]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("odd ")]
    assert line.split()[3] == "blocked"


@pytest.mark.parametrize("name", ["samplers", "llmplug_samplers"])
def test_hook_narrows_the_list(site: Site, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("mine", GOOD)
    assert main(["plugins", "--hook", name, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["plugins"]
    assert "mine" in {row["name"] for row in rows}
    assert all("llmplug_samplers" in row["hooks"] for row in rows)


def test_unknown_hook_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--hook", "sampler"]) == 2
    assert capsys.readouterr().err == (
        "llmplug: error: there is no hook 'sampler'; did you mean 'samplers'?\n"
    )
    assert main(["plugins", "--hook", "zzz"]) == 2
    assert all(hook.removeprefix("llmplug_") in capsys.readouterr().err for hook in list(HOOKS)[:1])


def test_set_without_a_config_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--set", "plugins.block=[x]"]) == 2
    assert "--set needs --config" in capsys.readouterr().err
