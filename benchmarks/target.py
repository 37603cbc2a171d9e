"""The servers of one measurement: ours first, then variants of it and peers."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.client import PATHS
from benchmarks.server import ServerProcess, find_free_port, wait_ready

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server, and how to speak to it.

    Attributes:
        command: starts it; `{port}` stands for its port. Empty: it runs already, at `url`.
        model: what requests call; empty: the first model that it lists.
        api: how prompts are sent, one of `client.PATHS`.
        fields: of each request, besides or instead of the usual ones.
        cost: config of the model that it serves, for the limit; None: there is no limit.
        sets: `--set` of that config.
        is_ours: it is llmplug, and its metrics can be read.
    """

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    model: str = ""
    api: str = "tokens"
    fields: Mapping[str, Any] = field(default_factory=dict)
    cost: Path | None = None
    sets: tuple[str, ...] = ()
    is_ours: bool = False

    @contextlib.contextmanager
    def open(self, log: Path, timeout_s: float) -> Iterator[tuple[str, ServerProcess | None]]:
        """Yield the server's address, and its process if it is started here."""
        if not self.command:
            wait_ready(self.url, timeout_s)
            yield self.url, None
            return
        port = find_free_port()
        url = f"http://127.0.0.1:{port}"
        command = [part.replace("{port}", str(port)) for part in self.command]
        with ServerProcess(command, url, log, timeout_s) as process:
            yield url, process


def split_pair(text: str) -> tuple[str, str]:
    """Read NAME=REST."""
    name, sign, rest = text.partition("=")
    if not (name and sign and rest):
        raise argparse.ArgumentTypeError(f"expected NAME=..., got {text!r}")
    return name, rest


def split_field(text: str) -> tuple[str, tuple[str, Any]]:
    """Read NAME=key=json."""
    name, rest = split_pair(text)
    key, value = split_pair(rest)
    try:
        return name, (key, json.loads(value))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is no JSON: {error}") from error


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the server to measure, and those to put beside it."""
    main = parser.add_mutually_exclusive_group(required=True)
    main.add_argument("--config", type=Path, help="start llmplug with this file")
    main.add_argument("--command", help="start this server; {port} is filled in")
    main.add_argument("--url", help="measure the server at http://host:port")
    parser.add_argument("--model", help="name of its model; the first one listed if left out")
    parser.add_argument(
        "--cost", type=Path, metavar="CONFIG", help="with --command, --url: config of the model"
    )
    beside = {
        "--variant": ("NAME=SETS", "llmplug again, with `--set` of these (quoted, with blanks)"),
        "--peer": ("NAME=COMMAND", "start this server too; {port} is filled in"),
        "--peer-url": ("NAME=URL", "measure this one too, which runs already"),
        "--peer-model": ("NAME=MODEL", "what requests to it call"),
        "--peer-cost": ("NAME=CONFIG", "of the file that it serves, for its limit"),
        "--peer-api": ("NAME=API", f"how it takes prompts: {', '.join(PATHS)}"),
    }
    for flag, (form, text) in beside.items():
        parser.add_argument(
            flag, action="append", default=[], type=split_pair, metavar=form, help=text
        )
    parser.add_argument(
        "--peer-field",
        action="append",
        default=[],
        type=split_field,
        metavar="NAME=KEY=JSON",
        help="in each request to it; null leaves one of ours out",
    )


def make_targets(args: argparse.Namespace) -> list[Target]:
    """Return the server to measure, then those beside it.

    Raises:
        ValueError: two have one name, or an argument speaks of one that is not there.
    """
    if args.variant and not args.config:
        raise ValueError("--variant needs --config")
    targets = [
        _make_main(args),
        *(_make_ours(args, name, shlex.split(sets)) for name, sets in args.variant),
        *(Target(name=name, command=tuple(shlex.split(text))) for name, text in args.peer),
        *(Target(name=name, url=_strip(url)) for name, url in args.peer_url),
    ]
    by_name = {target.name: target for target in targets}
    if len(by_name) < len(targets):
        raise ValueError("each server needs a name of its own")

    def change(flag: str, name: str, **changes: Any) -> None:
        if name not in by_name:
            raise ValueError(f"{flag}: no server is named {name!r}, only {', '.join(by_name)}")
        by_name[name] = replace(by_name[name], **changes)

    for name, model in args.peer_model:
        change("--peer-model", name, model=model)
    for name, config in args.peer_cost:
        change("--peer-cost", name, cost=Path(config))
    for name, api in args.peer_api:
        if api not in PATHS:
            raise ValueError(f"--peer-api: {api!r} is none of {', '.join(PATHS)}")
        change("--peer-api", name, api=api)
    for name, (key, value) in args.peer_field:
        fields = by_name[name].fields if name in by_name else {}
        change("--peer-field", name, fields={**fields, key: value})
    return list(by_name.values())


def _make_main(args: argparse.Namespace) -> Target:
    if args.config:
        return _make_ours(args, "llmplug", [])
    known = {"name": "server", "model": args.model or "", "cost": args.cost}
    if args.command:
        return Target(command=tuple(shlex.split(args.command)), **known)
    return Target(url=_strip(args.url), **known)


def _make_ours(args: argparse.Namespace, name: str, sets: list[str]) -> Target:
    """Return llmplug with the config and some of its values overridden."""
    program = Path(sys.executable).with_name("llmplug")
    command = [str(program), "serve", "--config", str(args.config)]
    for value in [*sets, "server.port={port}"]:
        command += ["--set", value]
    return Target(
        name=name,
        command=tuple(command),
        model=args.model or "",
        cost=args.cost or args.config,
        sets=() if args.cost else tuple(sets),
        is_ours=True,
    )


def _strip(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")
