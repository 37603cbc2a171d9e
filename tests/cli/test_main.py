"""The command line answers at once, and says what went wrong in a line and an exit status."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest

from llmplug import __version__
from llmplug.cli import load_commands, main
from llmplug.errors import ConfigError, LlmplugError

# Each takes longer to import than all that `--help` may take.
HEAVY = {"torch", "sanic", "transformers", "numpy", "pydantic", "yaml", "rich", "tokenizers"}

NAMES = [command.NAME for command in load_commands()]


def modules_after(*argv: str) -> set[str]:
    """Run the command line in a fresh interpreter and return what it imported."""
    code = (
        "import sys\nfrom llmplug.cli import main\n"
        f"try: main({list(argv)!r})\nexcept SystemExit: pass\n"
        "sys.stdout.write('\\n' + ' '.join(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("argv", [["--help"], ["--version"], [], ["bogus"]], ids=str)
def test_help_imports_nothing_heavy(argv: list[str]) -> None:
    assert modules_after(*argv) & HEAVY == set()


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    assert modules_after(name, "--help") & HEAVY == set()


def test_listing_plugins_does_not_import_torch() -> None:
    imported = modules_after("plugins")
    assert "llmplug_standard" in imported
    assert imported & {"torch", "sanic", "transformers", "numpy"} == set()


def test_explaining_a_config_does_not_import_torch() -> None:
    assert "torch" not in modules_after("config", "schema")


def test_every_command_is_a_file_of_its_name() -> None:
    for command in load_commands():
        assert sys.modules[f"llmplug.cli.{command.NAME}"] is command
        assert "\n" not in command.HELP


def test_help_lists_every_command_that_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    words = {line.split()[0] for line in shown.splitlines() if line.startswith("    ")}
    hidden = {c.NAME for c in load_commands() if c.HELP is argparse.SUPPRESS}
    assert words >= set(NAMES) - hidden
    assert words & hidden == set()
    assert argparse.SUPPRESS not in shown


def test_one_command_alone_is_imported() -> None:
    assert [command.NAME for command in load_commands("plugins")] == ["plugins"]
    # A module that is no command, and a word that is no module: all, for the usage message.
    assert [command.NAME for command in load_commands("terminal")] == NAMES
    assert [command.NAME for command in load_commands("bogus")] == NAMES


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: llmplug")


def test_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bogus"])
    assert caught.value.code == 2
    assert "invalid choice: 'bogus'" in capsys.readouterr().err


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"llmplug {__version__}\n"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("x.yaml:1: wrong"), 2, "llmplug: error: x.yaml:1: wrong\n"),
        (LlmplugError("odd"), 2, "llmplug: error: odd\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_an_exit_status(
    error: BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr("llmplug.cli.plugins.run", fail)
    assert main(["plugins"]) == status
    assert capsys.readouterr() == ("", message)


def test_errors_that_are_not_ours_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmplug.cli.plugins.run", lambda args: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["plugins"])


def test_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "llmplug", "config", "schema"],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
