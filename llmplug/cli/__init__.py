"""The command line: one subcommand a file, imported when it is asked for.

A subcommand is a module of this folder with `NAME` (that of the file), `HELP` (one line, or
`argparse.SUPPRESS`), `add_arguments(parser)` and `run(args) -> exit status`. It imports what is
heavy inside `run`, so that `llmplug --help` answers at once.

Exit status: 0 done, 1 not well (a check failed), 2 the user's config, plugins, files or arguments
are wrong, 130 interrupted, 141 whoever reads our output went away; of `serve` also 128 + N, as its
HTTP process was killed by signal N before it was ready.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from typing import TYPE_CHECKING, Any, Protocol, cast

from llmplug import __version__
from llmplug.errors import LlmplugError

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130
NOBODY_READS = 141


class Command(Protocol):
    """What a module of this folder has if it is a subcommand."""

    NAME: str
    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it, and return the exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `llmplug` with these arguments, the process' own by default; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        status = _run(argv)
        sys.stdout.flush()
    except LlmplugError as error:
        sys.stderr.write(f"llmplug: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit; that must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    return status


def load_commands(word: str | None = None) -> list[Command]:
    """Import the subcommand of this name alone, or all of them if there is none."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [
        importlib.import_module(f"{__name__}.{name}") for name in names if word in {None, name}
    ]
    commands = [cast("Command", module) for module in modules if hasattr(module, "NAME")]
    return commands if commands or word is None else load_commands()


def _run(argv: Sequence[str]) -> int:
    parser = _make_parser(load_commands(argv[0] if argv else None))
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    command = cast("Command", args.command)
    return command.run(args)


def _make_parser(commands: Sequence[Command]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmplug",
        description="Serve language models over the OpenAI API; every model part is a plugin.",
        epilog="llmplug COMMAND --help tells more about a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"llmplug {__version__}")
    parser.set_defaults(command=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in commands:
        # A suppressed help would be printed as "==SUPPRESS=="; without one, no line is printed.
        hidden = command.HELP is argparse.SUPPRESS
        shown: dict[str, Any] = {} if hidden else {"help": command.HELP}
        subparser = subparsers.add_parser(command.NAME, allow_abbrev=False, **shown)
        command.add_arguments(subparser)
        subparser.set_defaults(command=command)
    return parser
