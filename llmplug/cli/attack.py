"""`llmplug attack`: try whether a server withstands what others were felled by."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmplug.attack.run import Outcome

NAME = "attack"
HELP = "try whether a server of yours withstands attacks; exit status 1 if it does not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a server and a model."""
    parser.add_argument("url", metavar="URL", help="of a server of yours: http://127.0.0.1:8000")
    parser.add_argument("--model", required=True, help="the model to ask")
    parser.add_argument("--api-key", help="of the server")
    parser.add_argument("--force", action="store_true", help="attack another machine than this")
    parser.add_argument("--only", default="", metavar="WORD", help="attacks whose name holds it")
    parser.add_argument("--pid", type=int, help="of the server: its memory is watched (Linux)")
    parser.add_argument(
        "--within", type=float, default=1.0, metavar="S", help="a refusal must come (%(default)s)"
    )
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help="of one answer")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the attacks, and print what came of each."""
    from urllib.parse import urlsplit

    from llmplug.attack.attacker import Attacker
    from llmplug.attack.leftovers import ProcessMemory
    from llmplug.attack.run import run_attacks
    from llmplug.config.values import is_loopback
    from llmplug.conformance.checks import CheckFailed
    from llmplug.conformance.target import Target
    from llmplug.errors import ConfigError

    target = Target(url=args.url, model=args.model, api_key=args.api_key, timeout_s=args.timeout)
    if not args.force and not is_loopback(urlsplit(args.url).hostname or ""):
        raise ConfigError(
            f"{args.url} is another machine: --force attacks it all the same, if it is yours"
        )
    memory = ProcessMemory(args.pid) if args.pid is not None else None
    attacker = Attacker(target=target, within_s=args.within)
    try:
        outcomes = list(run_attacks(attacker, only=args.only, memory=memory))
    except CheckFailed as failure:
        raise ConfigError(
            f"nothing was tried, the server does not answer well: {failure}"
        ) from None
    _print_json(outcomes) if args.json else _print_table(outcomes)
    return int(any(outcome.result == "failed" for outcome in outcomes))


def _print_json(outcomes: Sequence[Outcome]) -> None:
    from llmplug.cli.terminal import write_json

    write_json(
        [
            {
                "attack": outcome.attack.name,
                "wants": outcome.attack.wants,
                "result": outcome.result,
                "seen": outcome.seen,
                "seconds": round(outcome.seconds, 3),
            }
            for outcome in outcomes
        ]
    )


def _print_table(outcomes: Sequence[Outcome]) -> None:
    from llmplug.cli.terminal import format_table, write

    rows = [
        (outcome.attack.name, outcome.result, outcome.seen or outcome.attack.wants)
        for outcome in outcomes
    ]
    write("\n".join(format_table([("attack", "result", "wanted, or seen"), *rows])))
    results = [outcome.result for outcome in outcomes]
    counts = [f"{results.count(each)} {each}" for each in ("withstood", "failed", "not offered")]
    write(f"\n{', '.join(counts)}")
