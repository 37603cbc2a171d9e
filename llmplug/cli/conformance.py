"""`llmplug conformance`: try whether a server, ours or another, keeps to OpenAI's API."""

from __future__ import annotations

import argparse

NAME = "conformance"
HELP = "try whether a server keeps to OpenAI's API; exit status 1 if it does not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a server and a model."""
    parser.add_argument("url", metavar="URL", help="such as http://127.0.0.1:8000")
    parser.add_argument("--model", required=True, help="the model to ask")
    parser.add_argument("--api-key", help="of the server")
    parser.add_argument("--only", default="", metavar="WORD", help="checks whose name holds it")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help="of one answer")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the checks, and print what came of each."""
    from llmplug.cli.terminal import format_table, write, write_json
    from llmplug.conformance.run import run_checks
    from llmplug.conformance.target import Target

    target = Target(url=args.url, model=args.model, api_key=args.api_key, timeout_s=args.timeout)
    outcomes = list(run_checks(target, args.only))
    num_failed = sum(outcome.result == "fail" for outcome in outcomes)
    if args.json:
        write_json(
            [
                {
                    "check": outcome.check.name,
                    "wants": outcome.check.wants,
                    "result": outcome.result,
                    "seen": outcome.seen,
                    "seconds": round(outcome.seconds, 3),
                }
                for outcome in outcomes
            ]
        )
        return int(num_failed > 0)
    rows = [
        (outcome.check.name, outcome.result, outcome.seen or outcome.check.wants)
        for outcome in outcomes
    ]
    write("\n".join(format_table([("check", "result", "wanted, or seen"), *rows])))
    num_passed = sum(outcome.result == "pass" for outcome in outcomes)
    num_absent = len(outcomes) - num_passed - num_failed
    write(f"\n{num_passed} passed, {num_failed} failed, {num_absent} not offered")
    return int(num_failed > 0)
