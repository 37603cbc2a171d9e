"""All that an installed plugin offers, collected by pytest from its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.fake_plugins import Site

BROKEN = """
import torch

def forget_eps(x_TD, weight_D, *, eps):
    return (x_TD / x_TD.square().mean(-1, keepdim=True).sqrt()) * weight_D

@hookimpl
def llmplug_kernels():
    return [KernelSpec(op="rms_norm", name="mine", supports=lambda device, dtype: None,
                       load=lambda: forget_eps)]

@hookimpl
def llmplug_samplers():
    return [sampler("mine")]
"""


def run(folder: Path, *names: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run pytest in an empty folder with the tests of these plugins."""
    options = [f"--llmplug-plugin={name}" for name in names]
    plugins = ["-p", "llmplug.testing.pytest_plugin", "--llmplug-quick", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-rs", *plugins, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **({"PYTHONPATH": str(path)} if path else {})},
    )


def test_what_can_be_tried_is_and_the_rest_says_what_it_wants(tmp_path: Path) -> None:
    done = run(tmp_path, "chatml", "generic", "harmony")
    assert done.returncode == 0, done.stdout
    assert "calls-generic PASSED" in done.stdout
    assert "chat_templates-chatml SKIPPED" in done.stdout
    assert "check_chat_template wants tokens" in done.stdout
    assert "thinking-harmony SKIPPED" in done.stdout
    assert "the parser of its calls reads whole answers" in done.stdout


def test_a_broken_plugin_fails(site: Site, tmp_path: Path) -> None:
    site.install("mine", BROKEN)
    folder = tmp_path / "empty"
    folder.mkdir()
    done = run(folder, "mine", path=site.folder)
    assert done.returncode == 1, done.stdout
    assert "rms_norm-mine-cpu-float32 FAILED" in done.stdout
    assert "differs from llmplug.ops.rms_norm" in done.stdout
    assert "samplers-mine SKIPPED" in done.stdout


def test_a_name_that_nothing_has_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "no_such_plugin")
    assert done.returncode == 4
    assert "no_such_plugin: no installed plugin has this name" in done.stderr


def test_without_the_option_nothing_is_added(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 5  # no tests
