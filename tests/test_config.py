"""The config says where a mistake stands, what was expected, and where each value came from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmplug.config import (
    Config,
    ModelConfig,
    dump_yaml,
    explain,
    from_source,
    load,
    parse,
    schema,
)
from llmplug.config.fields import derive_name
from llmplug.config.values import format_size, parse_size
from llmplug.errors import ConfigError

from .config_texts import MODEL, complaint, values

ROOT = Path(__file__).parents[1]


def origins(config: Config) -> dict[str, str]:
    return {row.key: row.origin for row in explain(config)}


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_bundled_configs_are_valid(path: Path) -> None:
    assert load(path).models


def test_what_is_left_out_has_the_default() -> None:
    assert parse(MODEL).model_dump() == Config(models=(ModelConfig(source="a"),)).model_dump()


def test_comments_of_the_default_config_show_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "config/llama.yaml").read_text()
    shown = re.sub(r"^( *)# ( *[a-z_]+:)", r"\1\2", text, flags=re.MULTILINE)
    monkeypatch.setenv("LLMPLUG_KEY", "k")
    everything, plain = values(parse(shown)), values(parse(text))
    del plain["server.api_keys"]
    everything = {key: value for key, value in everything.items() if ".api_keys." not in key}
    assert everything == plain
    written = {key for key, origin in origins(parse(shown)).items() if origin != "default"}
    assert {key for key in everything if key.startswith(("models", "server"))} <= written


def test_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(MODEL).server.port = 1  # type: ignore[misc]


def test_config_travels_as_json() -> None:
    config = parse(MODEL + "    aliases: [b]\n    cache: {memory: 2GiB}\n", sets=["server.port=1"])
    again = Config.model_validate(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert again.model_dump() == config.model_dump()


# --- complaints ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "models:\n  - source: a\n    sourse: b\n",
            "x.yaml:3: unknown key 'sourse'; did you mean 'source'?",
        ),
        (
            MODEL + "servers: {}\n",
            "x.yaml:3: unknown key 'servers'; did you mean 'server'?",
        ),
        (
            MODEL + "log:\n  zzz: 1\n",
            "x.yaml:4: unknown key 'zzz'; known keys: level, format, requests",
        ),
        ("", "x.yaml: missing key 'models'"),
        ("models: []", "x.yaml:1: models: expected at least one model"),
        ("models:\n  - name: a\n", "x.yaml:2: missing key 'models.0.source'"),
        ("models:\n", "x.yaml:1: models: expected a list, got nothing"),
        ("models: {source: a}\n", "x.yaml:1: models: expected a list, got keys and values"),
        ("models: [a]\n", "x.yaml:1: models.0: expected keys and values, got 'a'"),
        ("server: 8000\n" + MODEL, "x.yaml:1: server: expected keys and values, got 8000"),
        (
            MODEL + "server:\n  port: eight\n",
            "x.yaml:4: server.port: expected a whole number, got 'eight'",
        ),
        (
            MODEL + "server: {port: 70000}",
            "x.yaml:3: server.port: expected at most 65535, got 70000",
        ),
        (MODEL + "server: {port: yes}", "x.yaml:3: server.port: expected a whole number, got true"),
        (MODEL + "server: {metrics: 1}", "x.yaml:3: server.metrics: expected true or false, got 1"),
        (
            MODEL + "server: {drain_s: .inf}",
            "x.yaml:3: server.drain_s: expected a finite number, got inf",
        ),
        (
            MODEL + "server: {drain_s: soon}",
            "x.yaml:3: server.drain_s: expected a number, got 'soon'",
        ),
        (
            MODEL + "    name: 7\n",
            "x.yaml:3: models.0.name: expected text, got 7; put it in quotes",
        ),
        (
            MODEL + "    device: tpu\n",
            "x.yaml:3: models.0.device: expected one of 'auto', 'cpu' or 'cuda', got 'tpu'",
        ),
        (
            MODEL + "    aliases:\n      - b\n      - 3\n",
            "x.yaml:5: models.0.aliases.1: expected text, got 3; put it in quotes",
        ),
        (MODEL + "    aliases: b\n", "x.yaml:3: models.0.aliases: expected a list, got 'b'"),
        (MODEL + "    threads: 0\n", "x.yaml:3: models.0.threads: expected at least 1, got 0"),
        (
            MODEL + "    cache:\n      memory: lots\n",
            "x.yaml:4: models.0.cache.memory: expected a size such as 512MiB or 2GiB, got 'lots'",
        ),
        (
            MODEL + "    cache: {memory: 512}\n",
            (
                "x.yaml:3: models.0.cache.memory: 512 is less than 1MiB; "
                "sizes are written 512MiB or 2GiB"
            ),
        ),
        (
            MODEL + "    scheduler:\n      prefill_chunk: 600\n",
            "x.yaml:4: models.0.scheduler.prefill_chunk: 600 is more than max_batch_tokens, 512",
        ),
        (
            MODEL + "    scheduler:\n      inter_token_ms: 0\n",
            (
                "x.yaml:4: models.0.scheduler.inter_token_ms: expected auto, or milliseconds "
                "above 0, got 0"
            ),
        ),
        (
            MODEL + "    scheduler: {inter_token_ms: fast}\n",
            (
                "x.yaml:3: models.0.scheduler.inter_token_ms: expected auto, or milliseconds "
                "above 0, got 'fast'"
            ),
        ),
        (
            MODEL + "    name: ' '\n",
            (
                "x.yaml:3: models.0.name: ' ' is no name: empty, or with blanks around or control "
                "characters"
            ),
        ),
        (
            MODEL + "    aliases: [b]\n  - source: b\n",
            (
                "x.yaml:4: models.1.name: the name 'b' is already that of models.0; "
                "names and aliases must differ"
            ),
        ),
        (
            MODEL + "    aliases: [a]\n",
            (
                "x.yaml:3: models.0.aliases: the name 'a' is already that of models.0; "
                "names and aliases must differ"
            ),
        ),
    ],
)
def test_mistake_is_told_with_its_line(text: str, expected: str) -> None:
    assert complaint(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: [\n", "x.yaml:2: no valid YAML: "),
        ("a: b: c\n", "x.yaml:1: no valid YAML: mapping values are not allowed here"),
        ("\ta: 1\n", "x.yaml:1: no valid YAML: "),
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: key 'a' stands twice, first at x.yaml:1"),
        ("models:\n  - source: a\n    source: b\n", "x.yaml:3: key 'source' stands twice"),
        ("8000: a\n", "x.yaml:1: the key 8000 is no text; put it in quotes"),
        ("- a\n", "x.yaml: expected keys such as 'models:', got ['a']"),
        ("a: &b [*b]\n", "x.yaml:1: a.0 contains itself"),
        ("a:\n " + "[" * 50_000, "x.yaml:2: no valid YAML: values are nested over 32 deep"),
        ("- " * 50_000, "x.yaml:1: no valid YAML: values are nested over 32 deep"),
        ("a: *nowhere\n", "x.yaml:1: no valid YAML: found undefined alias"),
        ("a: !!python/object/apply:os.getcwd []\n", "x.yaml: missing key 'models'"),
        ("a: !secret x\n", "x.yaml:1: no valid YAML: could not determine a constructor"),
        ("a: 2024-13-45\n", "x.yaml: no valid YAML: month must be in 1..12"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: no valid YAML: but found another document"),
        ("a: \0\n", "x.yaml: no valid YAML: "),
    ],
)
def test_text_that_is_no_config_is_told(text: str, expected: str) -> None:
    assert complaint(text).startswith(expected)


def test_aliases_of_aliases_are_counted() -> None:
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)]
    assert "more than 10000 values" in complaint("a0: &a0 [x, x]\n" + "".join(lines))


def test_all_mistakes_are_told_at_once() -> None:
    text = MODEL + "    threads: x\n    foo: 1\nserver:\n  port: x\n"
    assert [line.split(" ")[0] for line in complaint(text).splitlines()] == [
        "x.yaml:6:",
        "x.yaml:3:",
        "x.yaml:4:",
    ]


@given(st.text(max_size=60))
def test_any_text_is_a_config_or_a_complaint(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml"):
        parse(text, "x.yaml")


def test_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml: cannot be read: No such file"):
        load(tmp_path / "no.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8 text, at byte 3"):
        load(tmp_path / "latin.yaml")


# --- overrides ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("server.port=8001", "server.port", "8001"),
        ("server={port: 8002, metrics: false}", "server.metrics", "false"),
        ("models.0.source=hf:a/b@main", "models.0.source", "hf:a/b@main"),
        ("models.0.aliases=[b, c]", "models.0.aliases", '["b", "c"]'),
        ("models.0.aliases.0=b", "models.0.aliases", '["b"]'),
        ("models.0.context_length=", "models.0.context_length", "null"),
        ("models.0.cache.memory=1536MiB", "models.0.cache.memory", "1536MiB"),
        ("models.1.source=other", "models.1.name", "other"),
        ("models.0.chat_template='1'", "models.0.chat_template", "1"),
        ("models.0.source=a=b", "models.0.source", "a=b"),
    ],
)
def test_set_overrides_one_value(assignment: str, key: str, value: str) -> None:
    assert values(parse(MODEL, sets=[assignment]))[key] == value


def test_the_last_set_wins() -> None:
    config = parse(MODEL, sets=["server.port=1", "server.port=2"])
    assert config.server.port == 2


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("server.port", "--set 'server.port': expected key=value, such as server.port=8001"),
        ("=1", "--set '=1': expected key=value, such as server.port=8001"),
        ("server..port=1", "--set 'server..port=1': expected key=value, such as server.port=8001"),
        ("server.prot=1", "--set server.prot: unknown key 'prot'; did you mean 'port'?"),
        ("server.port=x", "--set server.port: expected a whole number, got 'x'"),
        ("models.5.source=x", "--set models.5.source: 5 leads nowhere"),
        ("models.name=x", "--set models.name: 'name' leads nowhere"),
        ("server.port=[", "--set server.port: no valid YAML: "),
        ("models.0.source=${HOME}", "--set models.0.source: ${NAME} is read in"),
    ],
)
def test_bad_set_is_told(assignment: str, expected: str) -> None:
    assert complaint(MODEL, assignment).startswith(expected)


# --- explain, dump, schema ----------------------------------------------------------------------
def test_explain_says_where_each_value_came_from() -> None:
    config = parse(
        "server:\n  port: 1\n  drain_s: 5\nmodels:\n  - source: d/a.gguf\n    aliases: [b]\n",
        "x.yaml",
        ["server.port=2", "log={level: debug}"],
    )
    found = origins(config)
    assert found["server.port"] == "--set server.port"
    assert found["server.drain_s"] == "x.yaml:3"
    assert found["server.host"] == "default"
    assert found["models.0.source"] == "x.yaml:5"
    assert found["models.0.name"] == "derived from source"
    assert found["models.0.aliases"] == "x.yaml:6"
    assert found["log.level"] == "--set log"
    assert values(config)["models.0.name"] == "a"


def test_explain_of_a_source_says_command_line() -> None:
    config = from_source("hf:a/b", host="0.0.0.0", port=1, api_key="k", sets=["log.level=debug"])
    assert {key: origin for key, origin in origins(config).items() if origin != "default"} == {
        "server.host": "command line",
        "server.port": "command line",
        "server.api_keys.0.key": "command line",
        "models.0.name": "derived from source",
        "models.0.source": "command line",
        "log.level": "--set log.level",
    }


def test_source_alone_has_defaults() -> None:
    assert from_source("a").model_dump() == parse(MODEL).model_dump()


def test_source_on_an_open_host_needs_a_key() -> None:
    with pytest.raises(ConfigError, match=r"^command line: server\.host: '0\.0\.0\.0' can be"):
        from_source("a", host="0.0.0.0")


def test_dump_reads_back_as_the_same_config() -> None:
    config = parse(MODEL + "    cache: {memory: 3MiB}\n    aliases: ['1', é]\n", sets=["log={}"])
    assert parse(dump_yaml(config)).model_dump() == config.model_dump()


def test_schema_describes_every_key() -> None:
    described = schema()
    assert described["required"] == ["models"]
    for section in (described, *described["$defs"].values()):
        assert section["additionalProperties"] is False
        for name, field in section["properties"].items():
            target = described["$defs"].get(field.get("$ref", "").rpartition("/")[2], field)
            assert field.get("description") or target.get("description"), name


def test_explain_covers_every_key_of_the_schema() -> None:
    rows = {row.key for row in explain(parse(MODEL))}
    dumped = parse(MODEL).model_dump()

    def paths(value: object, path: str) -> set[str]:
        if isinstance(value, dict):
            return {p for key, item in value.items() for p in paths(item, f"{path}.{key}")}
        return {path[1:]}

    expected = paths({**dumped, "models": {"0": dumped["models"][0]}}, "")
    assert rows == expected


# --- names and sizes ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("pypi:llm-x==0.1.2/llm_x/X-135M-Instruct.Q4_1.gguf", "X-135M-Instruct.Q4_1"),
        ("hf:Org/Name-0.6B", "Name-0.6B"),
        ("hf:Org/Name-0.6B@v1.0", "Name-0.6B"),
        ("pypi:name==1.0", "name"),
        ("/models/folder/", "folder"),
        ("./model.gguf", "model"),
        ("model", "model"),
    ],
)
def test_model_is_named_after_its_source(source: str, name: str) -> None:
    assert derive_name(source) == name
    assert ModelConfig(source=source).name == name


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("2KiB", 2048), ("1 MB", 10**6), ("1.5GiB", 3 * 2**29), ("1tib", 2**40), (7, 7)],
)
def test_sizes_have_units(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "512", "512M", "-1GiB", "GiB", "1e3MiB", True, 1.5, None])
def test_other_sizes_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a size such as 512MiB"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=2**50))
def test_sizes_read_back(size: int) -> None:
    assert parse_size(format_size(size)) == size
