"""An application that Ray builds by itself, as a RayService of KubeRay has it done.

Its serveConfigV2 names this function: `import_path: llmplug.deploy.builder:build`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from llmplug.config import load
from llmplug.deploy.application import make_application
from llmplug.deploy.plugin_lists import list_plugins
from llmplug.deploy.source import make_source

if TYPE_CHECKING:
    from ray.serve import Application


class BuildArgs(BaseModel, extra="forbid", frozen=True):
    """What a RayService says of the application.

    Attributes:
        config: path of the config file, on the node where Ray builds.
        sets: overrides, as after `--set`.
    """

    config: str
    sets: tuple[str, ...] = ()


def build(args: Mapping[str, object]) -> Application:
    """Describe what is to run.

    Where Ray listens is for the serveConfigV2 to say: address and port of the config are not
    looked at. A node whose plugins are others than here runs no server.

    Args:
        args: the fields of BuildArgs.
    """
    said = BuildArgs.model_validate(args)
    config = load(said.config, said.sets)
    text = Path(said.config).read_text(encoding="utf-8")
    source = make_source(text, said.sets, os.getcwd())
    return make_application(config, source, list_plugins())
