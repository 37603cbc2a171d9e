"""What docs/operations.md names is there: metrics and labels, keys, paths; and all that reloads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from docs.write_reference import list_metrics
from llmplug.config import BatchesConfig, Config, ResponsesConfig, ServerConfig
from llmplug.config.shape import field_at, known_keys
from llmplug.server import live_config
from llmplug.server.admin import make_routes
from llmplug.server.app import create_app
from llmplug.server.flight_recorder import describe_trail
from llmplug.server.reload import Reloaded
from llmplug.server.service import Service
from llmplug.server.trail import Trail

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/operations.md").read_text()


@pytest.fixture(scope="module")
def app():
    settings = ServerConfig(
        responses=ResponsesConfig(path="memory"), batches=BatchesConfig(path="none")
    )
    return create_app(Service([]), settings)


@pytest.fixture(scope="module")
def metrics(app) -> dict[str, tuple[str, ...]]:
    """Name of each series -> its labels."""
    found = {}
    for name, kind, labels, _ in list_metrics(app.ctx.service.metrics.registry):
        for suffix in ("", "_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            found[name + suffix] = (*labels, "le") if suffix == "_bucket" else labels
    return found


def test_metrics_that_are_named_exist(metrics: dict[str, tuple[str, ...]]) -> None:
    named = set(re.findall(r"llmplug_[a-z_]+", PAGE))
    assert len(named) > 20
    assert named <= set(metrics)


def test_labels_of_alerts_are_those_of_their_metrics(metrics: dict[str, tuple[str, ...]]) -> None:
    (text,) = re.findall(r"```yaml\n(groups:.+?)```", PAGE, flags=re.DOTALL)
    rules = yaml.safe_load(text)["groups"][0]["rules"]
    assert len(rules) >= 6
    for rule in rules:
        used = re.findall(r"(llmplug_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert used
        known = {label for name, _ in used for label in metrics[name]}
        for name, selector in used:
            assert set(re.findall(r"(\w+)=", selector)) <= set(metrics[name]), rule["alert"]
        for grouped in re.findall(r"by \(([^)]*)\)", rule["expr"]):
            assert set(re.split(r",\s*", grouped)) <= known, rule["alert"]


def test_what_takes_effect_is_what_a_reload_takes() -> None:
    told = {
        section: set(re.findall(r"`(\w+)`", row))
        for section, row in re.findall(
            r"^\| `(server|models|log)(?:\[\])?` \| (.+) \|$", PAGE, re.M
        )
    }
    assert told == {
        "server": set(live_config.SERVER_KEYS),
        "models": set(live_config.MODEL_KEYS),
        "log": set(live_config.LOG_KEYS),
    }
    for section, keys in told.items():
        path = (section, 0) if section == "models" else (section,)
        assert keys <= set(known_keys(Config, path))


def test_keys_of_the_config_exist() -> None:
    for section, rest in re.findall(r"`(server|log|scheduler|cache)\.([a-z_.]+)`", PAGE):
        path = (section, *rest.split("."))
        if section in ("scheduler", "cache"):
            path = ("models", 0, *path)
        assert field_at(Config, path) is not None, path


def test_admin_routes_are_all_told(app) -> None:
    told = set(re.findall(r"`(GET|POST) (/\w+)`", PAGE))
    assert told == set(make_routes(app))


def test_examples_are_what_is_answered() -> None:
    (example,) = re.findall(r'```json\n(\{"status": "reloaded".+?)\n```', PAGE)
    assert set(json.loads(example)) == {"status", *Reloaded.__dataclass_fields__}
    assert "running" in PAGE
    assert {"seconds", "sampling"} <= set(describe_trail(Trail()))
