"""The tokenizer of a GGUF file, as the text of a tokenizer.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from gguf.constants import Keys, TokenType

from llmplug import CheckpointError, TokenizerFiles
from llmplug_gguf import byte_level, sentencepiece

if TYPE_CHECKING:
    from llmplug_gguf.header import Header

# Fields whose token is shown to templates under this name.
_NAMED_TOKENS = {
    "pad_token": Keys.Tokenizer.PAD_ID,
    "unk_token": Keys.Tokenizer.UNK_ID,
    "sep_token": Keys.Tokenizer.SEP_ID,
    "mask_token": Keys.Tokenizer.MASK_ID,
}
_EOS_KEYS = (Keys.Tokenizer.EOS_ID, Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID)
# Files often name one end, that of a document, and not that of a turn; GGUF carries no
# generation_config.json that would. A control token of this text ends a turn wherever it is used.
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>")
_CONTROL = (TokenType.CONTROL, TokenType.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The fields that every kind of tokenizer has.

    Attributes:
        tokens: texts by id, as the file spells them.
        types: a `gguf.TokenType` for each.
    """

    tokens: list[str]
    types: list[int]

    def ids_of(self, *types: TokenType) -> list[int]:
        """Ids of the tokens of these types, ascending."""
        return [id_ for id_, kind in enumerate(self.types) if kind in types]


def read_tokenizer(header: Header) -> TokenizerFiles:
    """Build the tokenizer that a file describes.

    Raises:
        CheckpointError: fields are missing or damaged, or of a kind that is not known.
    """
    fields = header.fields
    vocabulary = _read_vocabulary(header)
    kind = fields.get(Keys.Tokenizer.MODEL)
    if kind == "gpt2":
        description = byte_level.describe(fields, vocabulary.tokens)
        default_bos = byte_level.adds_bos(fields)
    elif kind == "llama":
        description = sentencepiece.describe(fields, vocabulary)
        default_bos = True
    else:
        raise CheckpointError(
            f"the tokenizer kind {kind!r} ({Keys.Tokenizer.MODEL}) is not supported; "
            "supported: gpt2 (byte-level BPE), llama (SentencePiece BPE)"
        )
    bos, eos = (_text_of(header, key) for key in (Keys.Tokenizer.BOS_ID, Keys.Tokenizer.EOS_ID))
    description["added_tokens"] = _added_tokens(header, vocabulary)
    if fields.get(Keys.Tokenizer.ADD_EOS, False) and eos is not None:
        description["post_processor"] = _append(eos, vocabulary.tokens.index(eos))
    named = {name: _text_of(header, key) for name, key in _NAMED_TOKENS.items()}
    prefix = f"{Keys.Tokenizer.CHAT_TEMPLATE}."
    return TokenizerFiles(
        json=msgspec.json.encode(description).decode(),
        bos_token=bos,
        eos_token=eos,
        add_bos=bos is not None and bool(fields.get(Keys.Tokenizer.ADD_BOS, default_bos)),
        chat_template=_text_field(header, Keys.Tokenizer.CHAT_TEMPLATE),
        named_templates={
            key.removeprefix(prefix): str(text)
            for key, text in fields.items()
            if key.startswith(prefix)
        },
        special_tokens={name: text for name, text in named.items() if text is not None},
    )


def find_token_id(header: Header, key: str) -> int | None:
    """Read a field that holds a token id; None where the file has none.

    Raises:
        CheckpointError: it is not the id of a token.
    """
    token_id = header.fields.get(key)
    if token_id is None:
        return None
    num_tokens = len(header.fields.get(Keys.Tokenizer.LIST, ()))
    if not isinstance(token_id, int) or not 0 <= token_id < num_tokens:
        raise CheckpointError(f"{key} is {token_id!r}, but there are {num_tokens} tokens")
    return token_id


def find_eos_ids(header: Header) -> list[int]:
    """Return the ids that end an answer, the file's own end-of-sequence id first."""
    found = [find_token_id(header, key) for key in _EOS_KEYS]
    if Keys.Tokenizer.EOT_ID not in header.fields:
        vocabulary = _read_vocabulary(header)
        control = vocabulary.ids_of(TokenType.CONTROL)
        found += [id_ for id_ in control if vocabulary.tokens[id_] in _END_OF_TURN]
    return list(dict.fromkeys(id_ for id_ in found if id_ is not None))


def _read_vocabulary(header: Header) -> Vocabulary:
    tokens = header.fields.get(Keys.Tokenizer.LIST, [])
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise CheckpointError(f"{Keys.Tokenizer.LIST} is no list of strings")
    types = header.fields.get(Keys.Tokenizer.TOKEN_TYPE, [int(TokenType.NORMAL)] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise CheckpointError(f"{Keys.Tokenizer.TOKEN_TYPE} has not one entry per token")
    return Vocabulary(tokens, types)


def _added_tokens(header: Header, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """List the tokens that are found whole in a text, before anything is split."""
    special = set(vocabulary.ids_of(*_CONTROL))
    special |= {
        token_id
        for key in (Keys.Tokenizer.BOS_ID, *_EOS_KEYS)
        if (token_id := find_token_id(header, key)) is not None
    }
    ids = special.union(vocabulary.ids_of(TokenType.USER_DEFINED))
    return [
        {
            "id": id_,
            "content": vocabulary.tokens[id_],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": id_ in special,
        }
        for id_ in sorted(ids)
        if vocabulary.tokens[id_]
    ]


def _append(text: str, token_id: int) -> dict[str, Any]:
    """Describe a post-processor that ends every text with one token."""
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    token = {"SpecialToken": {"id": text, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [sequence, token],
        "pair": [sequence, token, {"Sequence": {"id": "B", "type_id": 1}}, token],
        "special_tokens": {text: {"id": text, "ids": [token_id], "tokens": [text]}},
    }


def _text_of(header: Header, key: str) -> str | None:
    token_id = find_token_id(header, key)
    return None if token_id is None else str(header.fields[Keys.Tokenizer.LIST][token_id])


def _text_field(header: Header, key: str) -> str | None:
    text = header.fields.get(key)
    if text is not None and not isinstance(text, str):
        raise CheckpointError(f"{key} is no text")
    return text
