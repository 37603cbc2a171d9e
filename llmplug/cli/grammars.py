"""`llmplug grammars`: the process that tries grammars; started by the server, never by hand."""

from __future__ import annotations

import argparse
import gc
import sys

NAME = "grammars"
HELP = argparse.SUPPRESS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take nothing: all of it arrives on stdin."""


def run(args: argparse.Namespace) -> int:
    """Try grammars until the server goes away."""
    from llmplug.assemble import open_grammar_backend
    from llmplug.server.grammar_process import LENGTH_BYTES, run_grammar_process

    del args
    stdin = sys.stdin.buffer.raw  # type: ignore[union-attr]  # nothing may be read ahead
    size = int.from_bytes(_read_exactly(stdin, LENGTH_BYTES), "big")
    backend, vocab_size = open_grammar_backend(_read_exactly(stdin, size))
    gc.collect()
    gc.freeze()  # children share these pages as long as nobody writes to them
    return run_grammar_process(backend, vocab_size)


def _read_exactly(stream: object, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.read(size - len(data))  # type: ignore[attr-defined]
        if not piece:
            raise SystemExit(0)  # the server went away
        data += piece
    return data
