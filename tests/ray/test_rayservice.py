"""The RayService of deploy/kuberay: what Ray makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray._common.utils import import_attr
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

FOLDER = Path(__file__).parents[2] / "deploy/kuberay"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    service = yaml.safe_load((FOLDER / "rayservice.yaml").read_text())
    return yaml.safe_load(service["spec"]["serveConfigV2"])


def test_ray_takes_the_config(config: dict[str, Any]) -> None:
    schema = ServeDeploySchema.model_validate(config)
    (application,) = schema.applications
    build = import_attr(application.import_path)
    assert set(application.args) == {"config"}
    made = build({"config": str(FOLDER / "config.yaml"), "sets": ["deploy.max_servers=3"]})
    assert isinstance(made, Application)


def test_a_mistake_is_refused(config: dict[str, Any]) -> None:
    build = import_attr(config["applications"][0]["import_path"])
    with pytest.raises(ValidationError, match="colour"):
        build({"config": str(FOLDER / "config.yaml"), "colour": "blue"})
