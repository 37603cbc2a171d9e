"""What deploy/ names is there: commands and flags, ports, paths, keys, variables, metrics.

Linters and schemas of other people look at the same files in `make deploy-check`; they know nothing
of our program.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from docs.write_reference import list_metrics
from llmplug import cli
from llmplug.config import BatchesConfig, Config, ResponsesConfig, ServerConfig, load
from llmplug.server.admin import make_routes
from llmplug.server.app import create_app
from llmplug.server.auth import KeyRing, check_admin_key
from llmplug.server.lifecycle import LAST_WORDS_S
from llmplug.server.record import PROBE_PATHS
from llmplug.server.service import Service

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kubernetes/base"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UNIT = (DEPLOY / "systemd/llmplug.service").read_text()
KEYS = DEPLOY / "kubernetes/keys.example.yaml"
SECONDS_TO_STOP = 5  # of engines, and of whoever waits for them, beside what is written down


def read(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text())


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a document, at any depth, with its value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def find(document: Any, key: str) -> list[Any]:
    return [value for name, value in walk(document) if name == key]


def parse_seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return float(number) * (60 if unit == "m" else 1)


DEPLOYMENT = read("kubernetes/base/deployment.yaml")
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
COMPOSE = read("compose.yaml")


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    """What the image serves with compose."""
    for name in find(COMPOSE, "environment")[0]:
        monkeypatch.setenv(name, f"{name}-0123456789abcdef")
    return load(DEPLOY / "config.yaml")


@pytest.fixture(params=["base", "gpu"])
def pod_config(request: pytest.FixtureRequest) -> Config:
    return load(DEPLOY / "kubernetes" / request.param / "config.yaml")


@pytest.fixture(scope="module")
def app():
    settings = ServerConfig(
        responses=ResponsesConfig(path="memory"), batches=BatchesConfig(path="none")
    )
    return create_app(Service([]), settings)


def image_command(instruction: str) -> list[str]:
    (words,) = re.findall(rf"^{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    return json.loads(words)


def list_commands() -> dict[str, list[str]]:
    """Where -> the words after `llmplug`."""
    assert image_command("ENTRYPOINT") == ["llmplug"]
    (start,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    program, *words = shlex.split(start)
    assert Path(program).name == "llmplug"
    return {
        "Dockerfile": image_command("CMD"),
        "systemd": words,
        "kubernetes": CONTAINER["args"],
    }


@pytest.mark.parametrize("place", list_commands())
def test_commands_are_understood(place: str) -> None:
    name, *arguments = list_commands()[place]
    (command,) = cli.load_commands(name)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(arguments)
    assert args.config.startswith("/etc/llmplug/")


def test_keys_open_what_they_are_for(config: Config, pod_config: Config) -> None:
    for settings, path in ((config.server, None), (pod_config.server, KEYS)):
        keys = KeyRing(settings.api_keys, path)
        assert not keys.is_open
        assert keys.has_scope("inference")
        check_admin_key(settings.admin, keys)


def test_variables_of_compose_are_read_by_the_config(config: Config) -> None:
    used = set(re.findall(r"\$\{(\w+)\}", (DEPLOY / "config.yaml").read_text()))
    assert set(find(COMPOSE, "environment")[0]) == used
    for name in re.findall(r"\$\{(\w+)\}", UNIT):
        assert name in used


def test_variables_of_the_image_are_read_by_somebody() -> None:
    ours = "".join(path.read_text() for path in (ROOT / "llmplug").rglob("*.py"))
    named = re.findall(r"^(?:ENV|   ) (\w+)=", DOCKERFILE, re.MULTILINE)
    of_others = {"PATH", "HOME", "PYTHONDONTWRITEBYTECODE"}
    of_others |= {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}
    assert {"XDG_CACHE_HOME", "XDG_STATE_HOME"} <= set(named)
    for name in (*set(named) - of_others, *re.findall(r"(XDG_\w+)=", UNIT)):
        assert f'"{name}"' in ours, name


def test_ports_are_those_of_the_config(config: Config, pod_config: Config) -> None:
    for settings in (config.server, pod_config.server):
        ports = {settings.port, settings.admin.port}
        assert {"0.0.0.0"} == {settings.host, settings.admin.host}
        (exposed,) = re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
        assert set(map(int, exposed.split())) == ports
        assert {port["containerPort"] for port in CONTAINER["ports"]} == ports
    published = {int(line.rpartition(":")[2]) for line in COMPOSE["x-server"]["ports"]}
    assert published == ports
    assert all(line.startswith("127.0.0.1:") for line in COMPOSE["x-server"]["ports"])
    for target in find(read("prometheus/prometheus.yaml"), "targets")[0]:
        assert int(target.rpartition(":")[2]) == config.server.admin.port


def test_ports_that_are_named_are_the_containers() -> None:
    named = {port["name"] for port in CONTAINER["ports"]}
    probes = [CONTAINER[kind]["httpGet"]["port"] for kind in list_probes()]
    (service,) = read("kubernetes/base/service.yaml")["spec"]["ports"]
    network = [port["port"] for ports in find(read("kubernetes/base/network.yaml"), "ports")
               for port in ports]  # fmt: skip
    assert {*probes, service["targetPort"], *network} <= named
    # What leaves the namespace is the main listener alone.
    assert service["targetPort"] == "http"


def list_probes() -> list[str]:
    return ["startupProbe", "readinessProbe", "livenessProbe"]


def test_probes_ask_what_is_answered_without_a_key(app, config: Config) -> None:
    admin_paths = {path for method, path in make_routes(app) if method == "GET"}
    main_paths = {f"/{route.path}" for route in app.router.routes if "GET" in route.methods}
    answered = {"admin": admin_paths & PROBE_PATHS, "http": main_paths & PROBE_PATHS}
    for kind in list_probes():
        asked = CONTAINER[kind]["httpGet"]
        assert asked["path"] in answered[asked["port"]]
    urls = re.findall(r"http://[\w.:]+/\w+", DOCKERFILE + (DEPLOY / "compose.yaml").read_text())
    assert len(urls) == 2
    by_port = {config.server.port: "http", config.server.admin.port: "admin"}
    for url in map(urlsplit, urls):
        assert url.path in answered[by_port[url.port]]
    for path in find(read("prometheus/prometheus.yaml"), "metrics_path"):
        assert path in admin_paths


def test_there_is_time_to_drain(config: Config, pod_config: Config) -> None:
    waited = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][-1])
    (unit_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    times = {
        "kubernetes": (POD["terminationGracePeriodSeconds"] - waited, pod_config.server.drain_s),
        "compose": (parse_seconds(COMPOSE["x-server"]["stop_grace_period"]), config.server.drain_s),
        "systemd": (float(unit_s), ServerConfig().drain_s),
    }
    for place, (granted, drain_s) in times.items():
        assert granted >= drain_s + LAST_WORDS_S + SECONDS_TO_STOP, place


def test_a_read_only_root_leaves_room_to_write() -> None:
    home, cache, state = (
        re.search(rf"\b{name}=(\S+)", DOCKERFILE)[1]
        for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")
    )
    (volume,) = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    server = COMPOSE["x-server"]
    compose_mounts = {line.split(":")[1] for line in server["volumes"]} | set(server["tmpfs"])
    assert server["read_only"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert all(Path(path).is_relative_to(volume) for path in (home, cache, state))
    for path in (volume, "/tmp"):
        assert path in compose_mounts
        assert not mounts[path].get("readOnly")
    assert {mount["name"] for mount in mounts.values()} == {one["name"] for one in POD["volumes"]}


def test_users_are_one() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    last = [re.findall(r"^USER (.+)$", stage, re.MULTILINE)[-1:] for stage in stages]
    (users,) = {user for found in last for user in found}
    user, _, group = users.partition(":")
    assert user == group
    assert f"--uid {user} " in DOCKERFILE
    ids = {POD["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")}
    assert ids == {int(user)}


def test_files_lie_where_the_config_and_the_command_look(pod_config: Config) -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert CONTAINER["args"][-1] == f"{mounts['config']}/config.yaml"
    assert Path(pod_config.server.api_keys_file).parent == Path(mounts["keys"])
    (written,) = re.findall(r"--from-file=([\w.]+)=", KEYS.read_text())
    assert Path(pod_config.server.api_keys_file).name == written
    (secret,) = (one["secret"] for one in POD["volumes"] if "secret" in one)
    assert f"secret generic {secret['secretName']} " in KEYS.read_text()
    targets = [line.split(":")[1] for line in COMPOSE["x-server"]["volumes"]]
    assert image_command("CMD")[-1] in targets
    for stage in ("cpu", "cuda"):
        assert COMPOSE["services"][stage]["build"]["target"] == stage
        assert re.search(rf"^FROM runtime AS {stage}$", DOCKERFILE, re.MULTILINE)


def test_a_kustomization_lists_what_lies_beside_it() -> None:
    for folder in (BASE, DEPLOY / "kubernetes/gpu", DEPLOY / "kuberay"):
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())
        names = {name for name in listed["resources"] if not name.startswith("..")}
        names |= {name for one in listed.get("configMapGenerator", []) for name in one["files"]}
        names |= {patch["path"] for patch in listed.get("patches", [])}
        there = {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
        assert names == there
    (generated,) = read("kubernetes/base/kustomization.yaml")["configMapGenerator"]
    assert {"name": generated["name"]} in find(DEPLOYMENT, "configMap")


def test_selectors_find_the_pods() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    selectors = [*find(DEPLOYMENT, "matchLabels")]
    selectors += find(read("kubernetes/base/disruption.yaml"), "matchLabels")
    selectors += [read("kubernetes/base/service.yaml")["spec"]["selector"]]
    selectors += [read("kubernetes/base/network.yaml")["spec"]["podSelector"]["matchLabels"]]
    assert len(selectors) == 5
    assert all(selector == labels for selector in selectors)
    scaled = read("kubernetes/base/autoscaler.yaml")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", DEPLOYMENT["metadata"]["name"])


def test_what_scales_is_measured(app) -> None:
    labels = {name: names for name, _, names, _ in list_metrics(app.ctx.service.metrics.registry)}
    rules = read("kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    made = {rule["name"]["as"] for rule in rules}
    for folder in ("base", "gpu"):
        scaler = read(f"kubernetes/{folder}/autoscaler.yaml")
        used = [metric["name"] for metric in find(scaler, "metric")]
        assert used[0] == "llmplug_sequences"
        assert set(used) <= made
        (model,) = load(DEPLOY / f"kubernetes/{folder}/config.yaml").models
        target = float(find(scaler, "averageValue")[0])
        assert model.scheduler.max_sequences / 3 < target < model.scheduler.max_sequences
    for rule in rules:
        queried = re.findall(r"(llmplug_\w+)", rule["seriesQuery"] + rule["metricsQuery"])
        assert len(queried) > 1
        assert set(queried) <= set(labels)


def test_a_rayservice_runs_what_is_there() -> None:
    service = read("kuberay/rayservice.yaml")
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = serve["applications"]
    module, _, function = application["import_path"].partition(":")
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
    assert f"\ndef {function}(" in source
    (version,) = re.findall(
        r"^ray\[serve\]==(.+)$", (ROOT / "tests/ray/requirements.txt").read_text(), re.M
    )
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["rayVersion"] == version
    assert f" ray=={version}\n" in DOCKERFILE
    (workers,) = cluster["workerGroupSpecs"]
    config = load(DEPLOY / "kuberay/config.yaml")
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], workers)]
    for pod in pods:
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert application["args"]["config"] == f"{mounts['config']}/config.yaml"
        assert config.server.api_keys_file == f"{mounts['keys']}/keys.yaml"
        assert container["securityContext"] == CONTAINER["securityContext"]
        assert pod["securityContext"] == POD["securityContext"]
    cpus = float(pods[1]["containers"][0]["resources"]["limits"]["cpu"])
    assert cpus >= config.deploy.num_cpus == config.models[0].threads
    assert workers["maxReplicas"] >= config.deploy.max_servers
    granted = pods[1]["terminationGracePeriodSeconds"]
    assert granted >= config.server.drain_s + LAST_WORDS_S + SECONDS_TO_STOP
    (ports,) = find(pods[0], "ports")
    assert serve["http_options"]["port"] in {port["containerPort"] for port in ports}


def test_the_page_names_files_that_are_there() -> None:
    page = (DEPLOY / "README.md").read_text()
    named = set(re.findall(r"`([\w./-]+)`", page))
    files = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()}
    tops = {name.partition("/")[0] for name in files}
    ours = {name for name in named if name.partition("/")[0] in tops}
    assert all((DEPLOY / name).exists() for name in ours)
    assert tops - {"README.md"} <= {name.partition("/")[0] for name in ours}
