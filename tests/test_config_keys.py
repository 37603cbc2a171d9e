"""Who may come in, and with which secrets: these are read from the environment and never shown."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from llmplug.config import dump_yaml, explain, parse, read_keys
from llmplug.errors import ConfigError

from .config_texts import MODEL, complaint, values


# --- who may come in ----------------------------------------------------------------------------
@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_this_machine_needs_no_key(host: str) -> None:
    assert parse(MODEL, sets=[f"server.host='{host}'"]).server.host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "gpu.example", "127.0.0.1.x"])
def test_other_machines_need_a_key_or_a_word(host: str) -> None:
    text = MODEL + f"server:\n  host: '{host}'\n"
    assert complaint(text) == (
        f"x.yaml:4: server.host: {host!r} can be reached from other machines: "
        "set server.api_keys, or server.auth: none to serve everybody"
    )
    assert parse(text + "  api_keys: [k]\n").server.api_keys[0].key == "k"
    assert parse(text + "  auth: none\n").server.auth == "none"


def test_keys_that_nobody_asks_for_are_a_mistake() -> None:
    text = MODEL + "server:\n  api_keys: [k]\n  auth: none\n"
    assert complaint(text) == "x.yaml:5: server.auth: 'none' and api_keys contradict each other"


# --- secrets ------------------------------------------------------------------------------------
SECRET = MODEL + "server:\n  api_keys:\n    - ${FIRST}\n    - pre-${SECOND}-post\n"


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST", "one")
    monkeypatch.setenv("SECOND", "two")
    assert [each.key for each in parse(SECRET).server.api_keys] == ["one", "pre-two-post"]


def test_missing_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST", "one")
    monkeypatch.delenv("SECOND", raising=False)
    assert complaint(SECRET) == (
        "x.yaml:6: server.api_keys.1: environment variable 'SECOND' is not set"
    )


def test_variables_are_refused_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_OF_MODELS", "x")
    message = complaint("models:\n  - source: ${HOME_OF_MODELS}/a\n")
    assert message.startswith("x.yaml:2: models.0.source: ${NAME} is read in secrets only")


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST", "hush-one")
    monkeypatch.setenv("SECOND", "hush-two")
    config = parse(SECRET)
    shown = [str(config), repr(config.server), dump_yaml(config), str(explain(config))]
    assert not any("hush" in text for text in shown)
    assert values(config)["server.api_keys.1.key"] == "(secret)"
    written = yaml.safe_load(dump_yaml(config))["server"]["api_keys"]
    assert [each["key"] for each in written] == ["${API_KEYS_0_KEY}", "${API_KEYS_1_KEY}"]


@pytest.mark.parametrize("key", ["hush hush", "hush\n", "hushé", "12345hush\x00"])
def test_bad_key_is_told_without_showing_it(key: str) -> None:
    message = complaint(MODEL + f"server:\n  api_keys: [{json.dumps(key)}]\n")
    assert message.startswith("x.yaml:4: server.api_keys.0.key: an API key is printable ASCII")
    assert "hush" not in message


def test_keys_may_have_names_digests_and_scopes() -> None:
    digest = hashlib.sha256(b"hush").hexdigest()
    named, hashed = parse(
        MODEL
        + "server:\n  api_keys:\n"
        + "    - {name: alice, key: hush, scopes: [inference, admin]}\n"
        + f"    - sha256: {digest}\n"
    ).server.api_keys
    assert named.digest == hashed.digest == bytes.fromhex(digest)
    assert (named.caller, hashed.caller) == ("alice", digest[:16])
    assert (named.scopes, hashed.scopes) == (("inference", "admin"), ("inference",))


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("{name: a}", "server.api_keys.0: expected either key or sha256"),
        ("{key: hush, sha256: hush}", "server.api_keys.0: expected either key or sha256"),
        ("{sha256: abc}", "server.api_keys.0.sha256: expected 64 hexadecimal digits"),
        ("{key: hush, scopes: []}", "server.api_keys.0.scopes: a key without a scope"),
        ("{key: hush, scopes: [root]}", "server.api_keys.0.scopes.0: expected one of"),
        ("{key: 12}", "server.api_keys.0.key: expected text"),
    ],
)
def test_bad_keys_are_told(written: str, problem: str) -> None:
    message = complaint(MODEL + f"server:\n  api_keys: [{written}]\n")
    assert message.startswith(f"x.yaml:4: {problem}")
    assert "hush" not in message


def test_keys_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOB", "hush-bob")
    path = tmp_path / "keys.yaml"
    path.write_text("api_keys:\n  - plain\n  - {name: bob, key: '${BOB}'}\n")
    assert [each.key for each in read_keys(path)] == ["plain", "hush-bob"]
    path.write_text("api_keys:\n  - {name: bob, key: hush hush}\n")
    with pytest.raises(ConfigError, match=r"keys.yaml:2: .*api_keys.0.key: an API key") as seen:
        read_keys(path)
    assert "hush" not in str(seen.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "absent.yaml")


def test_bad_section_does_not_show_its_secrets() -> None:
    message = complaint(MODEL + "server:\n  api_keys: hush\n")
    assert message == "x.yaml:4: server.api_keys: expected a list"
    message = complaint(MODEL + "server:\n  api_keys: [hush]\n  host: 1\n  foo: 2\n")
    assert "hush" not in message
