"""What a config says to plugins: read with their own models, refused with a line, never shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tiny import make_checkpoint

from llmplug import logs, plugins
from llmplug.assemble import load_registry, plan_text
from llmplug.config import Config, PluginSettings, dump_yaml, explain, parse, schema
from llmplug.errors import ConfigError
from llmplug.plugin_report import PluginReport, State
from llmplug.processes import grammar_payload, open_grammar_backend
from tests.fake_plugins import Site

CONFIG = "models:\n  - source: a\nplugins:\n  settings:\n"  # what follows is line 5
MINE = """
from pydantic import SecretStr

class Limits(BaseModel):
    most: int = 4

class Settings(BaseModel):
    name: str = "plain"
    token: SecretStr | None = None
    tokens: list[SecretStr] = []
    headers: dict[str, SecretStr] = {}
    limits: Limits = Limits()
    sizes: tuple[int, ...] = ()

@hookimpl
def llmplug_settings(): return Settings

@hookimpl
def llmplug_chat_templates(settings):
    return [template(f"{settings.name} {settings.limits.most} {settings.sizes}")]

@hookimpl
def llmplug_sources(): return [source("mine")]
"""
ALIASED = """
from pydantic import Field, SecretStr

class Settings(BaseModel):
    token: SecretStr | None = Field(None, alias="api-token")

@hookimpl
def llmplug_settings(): return Settings

@hookimpl
def llmplug_sources(settings): return [source("named")]
"""
NONE = "@hookimpl\ndef llmplug_sources(): return [source('none')]\n"


@pytest.fixture(autouse=True)
def mine(site: Site) -> Site:
    site.install("mine", MINE)
    return site


def load(site: Site, text: str, *sets: str) -> tuple[Config, PluginReport]:
    config = parse(CONFIG + text if text else "models: [{source: a}]", "x.yaml", sets)
    settings = PluginSettings(config)
    report = plugins.load_all(
        config.plugins.block, site.entry_points(), read_settings=settings.read
    )
    settings.check(report)
    return config, report


def complaint(site: Site, text: str, *sets: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(site, text, *sets)
    assert caught.value.__cause__ is None
    return str(caught.value)


def offered(report: PluginReport) -> str:
    (name,) = (
        offer.name for each in report.plugins for offer in each.offers if offer.kind != "sources"
    )
    return name


# --- what hooks get -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "sets", "expected"),
    [
        ("", (), "plain 4 ()"),
        ("    mine: {}\n", (), "plain 4 ()"),
        ("    mine: {name: odd, limits: {most: 2}, sizes: [1, 2]}\n", (), "odd 2 (1, 2)"),
        ("    dist-mine:mine: {name: odd}\n", (), "odd 4 ()"),
        ("    mine: {name: odd}\n", ("plugins.settings.mine.limits.most=3",), "odd 3 ()"),
        ("", ("plugins.settings.mine.name=set",), "set 4 ()"),
    ],
)
def test_hooks_get_what_the_config_says_else_the_defaults(
    site: Site, text: str, sets: tuple[str, ...], expected: str
) -> None:
    _, report = load(site, text, *sets)
    assert offered(report) == expected


def test_another_process_reads_the_same(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    text = "    mine: {name: odd, sizes: [1], token: '${TOKEN}', headers: {a: 'b-${TOKEN}'}}\n"
    config, here = load(site, text)
    sent = json.loads(json.dumps(config.model_dump(mode="json")))
    settings = PluginSettings(Config.model_validate(sent))
    there = plugins.load_all((), site.entry_points(), read_settings=settings.read)
    assert offered(there) == offered(here) == "odd 4 (1,)"
    for report in (here, there):
        (plugin,) = report.plugins
        assert plugin.settings is not None
        assert plugin.settings.token.get_secret_value() == "hush"  # type: ignore[attr-defined]
        assert plugin.settings.headers["a"].get_secret_value() == "b-hush"  # type: ignore[attr-defined]


GRAMMAR = """
from llmplug import GrammarSpec

class Settings(BaseModel):
    word: str = "default"

@hookimpl
def llmplug_settings(): return Settings

@hookimpl
def llmplug_grammars(settings):
    return [GrammarSpec(name="told", open=lambda vocabulary: settings.word)]
"""


def test_the_process_of_grammars_reads_the_same(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("told", GRAMMAR)
    monkeypatch.setattr(logs, "set_up", lambda *_, **__: None)
    model = {"source": str(make_checkpoint("llama", tmp_path)), "grammar_backend": "told"}
    config = parse(json.dumps({"models": [model]}), sets=["plugins.settings.told.word=said"])
    plan = plan_text(config.models[0], load_registry(config), lambda *_: None)
    backend, _ = open_grammar_backend(grammar_payload(plan, config))
    assert backend == "said"


# --- what is refused ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "    mine:\n      nam: x\n",
            "x.yaml:6: unknown key 'nam'; did you mean 'name'?",
        ),
        (
            "    mine: {limits: {zzz: 1}}\n",
            "x.yaml:5: unknown key 'zzz'; known keys: most",
        ),
        (
            "    mine:\n      limits:\n        most: many\n",
            "x.yaml:7: plugins.settings.mine.limits.most: expected a whole number, got 'many'",
        ),
        ("    mine: 3\n", "x.yaml:5: plugins.settings.mine: expected keys and values"),
        ("    mine:\n", "x.yaml:5: plugins.settings.mine: expected keys and values"),
        (
            "    mine: {name: 2024-01-01}\n",
            (
                "x.yaml:5: plugins.settings.mine.name: expected text, a number, true, false or "
                "null; put it in quotes"
            ),
        ),
        (
            "    mine: {sizes: [1, .inf]}\n",
            "x.yaml:5: plugins.settings.mine.sizes.1: expected a finite number",
        ),
        (
            "    mime: {}\n",
            "x.yaml:5: plugins.settings.mime: no plugin 'mime' is installed; did you mean 'mine'?",
        ),
        (
            "    none: {}\n",
            "x.yaml:5: plugins.settings.none: the plugin 'none' has no settings; leave them out",
        ),
        (
            "    mine: {}\n    dist-mine:mine: {}\n",
            (
                "x.yaml:6: plugins.settings.dist-mine:mine: the settings of dist-mine:mine stand "
                "under 'mine' already"
            ),
        ),
        (
            "    mine: {}\n  block: [mine]\n",
            (
                "x.yaml:5: plugins.settings.mine: plugin 'mine' of dist-mine 1.0 is blocked: "
                "blocked by the config; take it out of plugins.block, or leave its settings out"
            ),
        ),
        (
            "    mine: {name: '${HOME}'}\n",
            (
                "x.yaml:5: plugins.settings.mine.name: ${NAME} is read in secrets only; write the "
                "value itself, or override it with --set"
            ),
        ),
    ],
)
def test_what_no_plugin_takes_is_refused_with_its_line(
    site: Site, text: str, expected: str
) -> None:
    site.install("none", NONE)
    assert complaint(site, text) == expected


def test_settings_of_a_broken_plugin_are_refused(site: Site) -> None:
    site.install("odd", "1 / 0")
    message = complaint(site, "    odd: {}\n")
    assert message.startswith("x.yaml:5: plugins.settings.odd: plugin 'odd' of dist-odd 1.0 is bro")
    assert message.endswith("mend it, or leave its settings out")


def test_a_name_of_two_plugins_is_refused(site: Site) -> None:
    for distribution in ("one", "two"):
        site.install("twin", MINE.replace('"mine"', f'"{distribution}"'), distribution=distribution)
    assert complaint(site, "    twin: {}\n") == (
        "x.yaml:5: plugins.settings.twin: two plugins are called 'twin'; write one:twin or two:twin"
    )


def test_all_of_it_is_told_at_once(site: Site) -> None:
    message = complaint(site, "    mine: {name: 1, x: 2}\n    other: {}\n", "plugins.settings.z={}")
    assert [line.partition(": ")[0] for line in message.splitlines()] == [
        *["x.yaml:5"] * 2,
        "x.yaml:6",
        "--set plugins.settings.z",
    ]


def test_a_wrong_value_harms_no_other_plugin(site: Site) -> None:
    site.install("zzz", NONE)
    settings = PluginSettings(parse(CONFIG + "    mine: {x: 1}\n"))
    report = plugins.load_all((), site.entry_points(), read_settings=settings.read)
    assert {each.found.name: each.state for each in report.plugins} == {
        "mine": State.BROKEN,
        "zzz": State.OK,
    }


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def llmplug_settings(): return dict", "returned <class 'dict'>, not a pydantic model"),
        ("def llmplug_settings(): return None", "returned None, not a pydantic model"),
        ("def llmplug_settings(): return Must", "returned Must, whose 'x' has no default"),
        ("def llmplug_settings(config): return Must", "'config'"),
        ("def llmplug_sources(settings): return []", "and the plugin has no llmplug_settings"),
    ],
)
def test_a_plugin_that_breaks_the_contract_is_incompatible(
    site: Site, code: str, reason: str
) -> None:
    path = site.install("odd", f"class Must(BaseModel):\n    x: int\n@hookimpl\n{code}\n")
    report = plugins.load_all(entry_points=site.entry_points())
    (plugin,) = report.called("odd")
    assert plugin.state is State.INCOMPATIBLE
    assert reason in plugin.reason
    assert (plugin.file or "").startswith(str(path))


# --- what is shown ------------------------------------------------------------------------------
def test_explain_says_each_value_and_where_it_came_from(site: Site) -> None:
    config, report = load(
        site, "    mine:\n      name: odd\n", "plugins.settings.mine.limits.most=3"
    )
    rows = {row.key: (row.value, row.origin) for row in explain(config, report.plugins)}
    assert {key: row for key, row in rows.items() if ".settings" in key} == {
        "plugins.settings.mine.name": ("odd", "x.yaml:6"),
        "plugins.settings.mine.token": ("null", "default"),
        "plugins.settings.mine.tokens": ("[]", "default"),
        "plugins.settings.mine.headers": ("{}", "default"),
        "plugins.settings.mine.limits.most": ("3", "--set plugins.settings.mine.limits.most"),
        "plugins.settings.mine.sizes": ("[]", "default"),
    }


@pytest.mark.parametrize(
    "text",
    [
        "    mine: {token: hush, headers: {a: hush}}\n",
        "    mine: {token: '${TOKEN}', headers: {a: '${TOKEN}'}}\n",
    ],
)
def test_secrets_are_never_shown(site: Site, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    config, report = load(site, text)
    shown = [
        repr(config),
        dump_yaml(config),
        str(explain(config)),
        str(explain(config, report.plugins)),
        repr(report),
        json.dumps(report.as_json()),
    ]
    assert not any("hush" in text for text in shown)


@pytest.mark.parametrize(
    "text",
    [
        "    mine: {token: 31337}\n",
        "    mine: {token: [31337]}\n",
        "    mine: {headers: 31337}\n",
        "    mine: {headers: {a: 31337}}\n",
        "    mine: {tokn: 31337}\n",
        "    mine: 31337\n",
    ],
)
def test_a_wrong_secret_is_told_without_showing_it(site: Site, text: str) -> None:
    assert "31337" not in complaint(site, text)


def test_a_variable_is_written_back_as_it_is(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    config, _ = load(site, "    mine: {token: '${TOKEN}'}\n")
    _, report = load(site, "", f"plugins={yaml.safe_load(dump_yaml(config))['plugins']}")
    assert (
        report.plugins[0].settings == load(site, "    mine: {token: hush}\n")[1].plugins[0].settings
    )


def test_what_is_dumped_of_settings_says_the_same_and_no_secret(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("named", ALIASED)
    sets = [
        "plugins.settings.mine={name: plain to read, token: hush, sizes: [1, 2]}",
        "plugins.settings.mine.tokens=[hush, '${TOKEN}']",
        "plugins.settings.mine.headers={b: '${TOKEN}', c: 'Bearer ${TOKEN}'}",
        "plugins.settings.dist-named:named.api-token=hush",
    ]
    monkeypatch.setenv("TOKEN", "hush")
    config, report = load(site, "", *sets)
    dumped = dump_yaml(config, report.plugins)
    assert "hush" not in dumped
    assert yaml.safe_load(dumped)["plugins"]["settings"]["mine"] == {
        "name": "plain to read",
        "token": "${SETTINGS_MINE_TOKEN}",
        "tokens": ["${SETTINGS_MINE_TOKENS_0}", "${TOKEN}"],
        "headers": {"b": "${TOKEN}", "c": "${SETTINGS_MINE_HEADERS_C}"},
        "sizes": [1, 2],
    }
    for name in ("MINE_TOKEN", "MINE_TOKENS_0", "DIST_NAMED_NAMED_API_TOKEN"):
        monkeypatch.setenv(f"SETTINGS_{name}", "hush")
    monkeypatch.setenv("SETTINGS_MINE_HEADERS_C", "Bearer hush")
    _, again = load(site, "", f"plugins={yaml.safe_load(dumped)['plugins']}")
    assert [plugin.settings for plugin in again.plugins] == [
        plugin.settings for plugin in report.plugins
    ]


def test_settings_of_plugins_that_nobody_asked_are_secrets(site: Site) -> None:
    config, _ = load(site, "    mine: {name: hush, tokens: [hush]}\n")
    assert "hush" not in dump_yaml(config)


def test_keys_may_have_other_names_than_fields(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    site.install("named", ALIASED)
    _, report = load(site, "    named: {api-token: '${TOKEN}'}\n")
    (plugin,) = report.called("named")
    assert plugin.settings.token.get_secret_value() == "hush"  # type: ignore[union-attr]
    assert complaint(site, "    named: {api-tokn: x}\n").endswith("did you mean 'api-token'?")


def test_missing_variable_of_a_secret_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    assert complaint(site, "    mine: {token: '${TOKEN}'}\n") == (
        "x.yaml:5: plugins.settings.mine.token: environment variable 'TOKEN' is not set"
    )


def test_schema_has_what_installed_plugins_take(site: Site) -> None:
    _, report = load(site, "")
    whole = schema(report.plugins)
    section = whole["$defs"]["PluginsConfig"]["properties"]["settings"]
    assert section["additionalProperties"] is False
    assert section["properties"].keys() == {"mine", "dist-mine:mine"}
    own = whole["$defs"]["mine"]
    assert own["properties"].keys() == {*("name", "token", "tokens", "headers", "limits", "sizes")}
    assert own["properties"]["limits"]["$ref"] == "#/$defs/mine.Limits"
    assert whole["$defs"]["mine.Limits"]["properties"]["most"]["default"] == 4
    assert schema()["$defs"]["PluginsConfig"]["properties"]["settings"]["type"] == "object"
