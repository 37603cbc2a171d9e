"""`llmplug grammars`: the process that tries grammars; started by the server, never by hand."""

from __future__ import annotations

import argparse
import gc

NAME = "grammars"
HELP = argparse.SUPPRESS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take nothing: all of it arrives on stdin."""


def run(args: argparse.Namespace) -> int:
    """Try grammars until the server goes away."""
    from llmplug.processes import open_grammar_backend
    from llmplug.server.grammar_process import read_payload, run_grammar_process

    del args
    backend, vocab_size = open_grammar_backend(read_payload())
    gc.collect()
    gc.freeze()  # children share these pages as long as nobody writes to them
    return run_grammar_process(backend, vocab_size)
