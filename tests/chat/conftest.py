"""Tokenizers: one of each family, and the real model's."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer as LibraryTokenizer

from llmplug import TokenizerFiles
from llmplug.chat.tokenizer import Tokenizer

from .vocabularies import FAMILIES, build, cached


@pytest.fixture(params=FAMILIES)
def library(request: pytest.FixtureRequest) -> LibraryTokenizer:
    """The library's tokenizer, of every family in turn."""
    return build(request.param)


@pytest.fixture
def tokenizer(request: pytest.FixtureRequest, library: LibraryTokenizer) -> Tokenizer:
    """Ours, of the same family."""
    return cached(request.node.callspec.params["library"])


@pytest.fixture(scope="session")
def smollm2_files(smollm2_gguf: Path) -> TokenizerFiles:
    import llmplug_gguf

    (loader,) = llmplug_gguf.llmplug_model_loaders()
    return loader.open(smollm2_gguf).tokenizer


@pytest.fixture(scope="session")
def smollm2(smollm2_files: TokenizerFiles) -> Tokenizer:
    return Tokenizer(smollm2_files)
