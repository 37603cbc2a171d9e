"""The grammar process of a model whose tokens are bytes; `python -m server.grammar_program`."""

from __future__ import annotations

import sys

from llmplug.server.grammar_process import LENGTH_BYTES, run_grammar_process
from llmplug.testing.byte_answers import VOCAB_SIZE, make_vocabulary
from llmplug_llguidance.backend import LlguidanceBackend

if __name__ == "__main__":
    stdin = sys.stdin.buffer.raw
    size = int.from_bytes(stdin.read(LENGTH_BYTES), "big")
    stdin.read(size)
    sys.exit(run_grammar_process(LlguidanceBackend(make_vocabulary()), VOCAB_SIZE))
