"""A chat template with a small vocabulary, as a model of its family has it."""

from __future__ import annotations

from collections.abc import Sequence

from llmplug.chat.render import ChatRenderer
from llmplug.chat.tokenizer import Tokenizer
from llmplug.specs import TokenizerFiles


def make_renderer(template: str, tokens: Sequence[str]) -> ChatRenderer:
    """Return a renderer whose vocabulary is all bytes and the control tokens of the template."""
    return ChatRenderer(make_tokenizer(tokens), template)


def make_tokenizer(tokens: Sequence[str]) -> Tokenizer:
    """Return a tokenizer of bytes and these control tokens; the first stands for bos and eos."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as LibraryTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = LibraryTokenizer(models.BPE({text: i for i, text in enumerate(alphabet)}, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_tokens([AddedToken(text, special=True, normalized=False) for text in tokens])
    special = dict.fromkeys(("bos_token", "eos_token"), tokens[0]) if tokens else {}
    return Tokenizer(TokenizerFiles(json=library.to_str(), special_tokens=special))
