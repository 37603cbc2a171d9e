"""`llmplug generate`: answer one prompt on the terminal, without a server."""

from __future__ import annotations

import argparse
import sys

NAME = "generate"
HELP = "answer a prompt on the terminal, without a server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a config or a source, a prompt, and how to sample."""
    from llmplug.cli.arguments import add_config_or_source

    add_config_or_source(parser)
    parser.add_argument("--model", metavar="NAME", help="which of the config's models")
    parser.add_argument("-p", "--prompt", help="the prompt; without it, stdin is read")
    parser.add_argument("--raw", action="store_true", help="complete the text; no chat template")
    parser.add_argument("--max-tokens", type=int, default=256, help="256")
    parser.add_argument("--temperature", type=float, help="the model's own default; 0 is greedy")
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--stop", action="append", default=[], help="may be given several times")


def run(args: argparse.Namespace) -> int:
    """Generate and print the answer."""
    from llmplug.cli.arguments import read_config_or_source
    from llmplug.cli.terminal import write
    from llmplug.llm import LLM
    from llmplug.types import SamplingParams

    config = read_config_or_source(args)
    prompt = sys.stdin.read() if args.prompt is None else args.prompt
    params = SamplingParams(
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        stop=tuple(args.stop),
    )
    with LLM(config, model=args.model) as llm:
        if args.raw:
            (answer,) = llm.generate(prompt, params)
        else:
            (answer,) = llm.chat([{"role": "user", "content": prompt}], params)
    write(answer.text)
    return 0
