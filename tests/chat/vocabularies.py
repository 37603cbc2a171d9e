"""Small tokenizers of every family that chat models use, made on the spot."""

from __future__ import annotations

import functools
from collections.abc import Callable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import PreTrainedTokenizerFast

from llmplug import TokenizerFiles
from llmplug.chat.tokenizer import Tokenizer as ChatTokenizer

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "user assistant system tool start end think <b>bold</b> [x] | a <| b |> c",
    "im_start im_end <think> </think> tool_call <|im_end|> INST [INST]",
    "0123456789 :;,.!? \n\n  \t()",
]
CONTROL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "[INST]", "[/INST]"]
SPECIAL = {"<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"}


def add_control(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_tokens(
        [AddedToken(text, special=text in SPECIAL, normalized=False) for text in CONTROL]
    )
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=CONTROL[:2],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return add_control(tokenizer)


def byte_level_prefix_space() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def merges_spell_control() -> Tokenizer:
    """BPE whose merges build a control token, and that looks up whole words first."""
    letters = sorted(set("<|im_start|>abc </think>h"))
    vocab = {letter: i for i, letter in enumerate(letters)}
    merges = []
    for text in ("<|im_start|>", "</think>"):
        for n in range(2, len(text) + 1):
            vocab.setdefault(text[:n], len(vocab))
            merges.append((text[: n - 1], text[n - 1]))
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=True, unk_token=None))
    tokenizer.decoder = decoders.Sequence([decoders.Fuse()])
    return add_control(tokenizer)


def sentencepiece() -> Tokenizer:
    """As Llama 2 has it: the space is a letter, unknown letters are bytes."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{i:02X}>": i + 3 for i in range(256)}
    merges: list[tuple[str, str]] = []
    for letter in [*sorted(set("".join(CORPUS)) - {" "}), "▁"]:
        vocab.setdefault(letter, len(vocab))
    for word in ("▁the", "▁quick", "user", "▁user", "end", "start", "think", "<|", "|>", "▁▁"):
        for n in range(2, len(word) + 1):
            if word[:n] not in vocab:
                vocab[word[:n]] = len(vocab)
                merges.append((word[: n - 1], word[n - 1]))
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")]
    )
    return add_control(tokenizer)


def metaspace(scheme: str = "first") -> Tokenizer:
    """As newer Llama 2 files have it: Metaspace puts a space before the first piece only."""
    tokenizer = sentencepiece()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = UnigramTrainer(
        vocab_size=120,
        special_tokens=["<unk>", *CONTROL[:3]],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return add_control(tokenizer)


def word_level() -> Tokenizer:
    words = ["<unk>", *CONTROL, "the", "quick", "user", "assistant", "<", ">", "|"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unk>"])
    return add_control(tokenizer)


def with_flags() -> Tokenizer:
    """Added tokens with every flag, and some that open with a letter, a space or are one letter."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.add_tokens(
        [
            AddedToken("<left>", lstrip=True, normalized=False, special=True),
            AddedToken("<right>", rstrip=True, normalized=False, special=True),
            AddedToken("<alone>", single_word=True, normalized=False),
            AddedToken("<norm>", normalized=True),
            AddedToken("marker9", normalized=False),
            AddedToken("§", normalized=False),
            AddedToken("※", normalized=False, special=True),
            AddedToken("\n\n\n", normalized=False),
            AddedToken(" <gap>", normalized=False, special=True),
        ]
    )
    return tokenizer


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "byte_level_prefix_space": byte_level_prefix_space,
    "merges_spell_control": merges_spell_control,
    "sentencepiece": sentencepiece,
    "metaspace_first": metaspace,
    "metaspace_always": lambda: metaspace("always"),
    "unigram": unigram,
    "word_level": word_level,
    "with_flags": with_flags,
}
GENERATING = [name for name in FAMILIES if name != "word_level"]  # decoders that join bytes


@functools.cache
def build(name: str) -> Tokenizer:
    return FAMILIES[name]()


@functools.cache
def cached(name: str) -> ChatTokenizer:
    return ChatTokenizer(files_of(build(name)))


def files_of(tokenizer: Tokenizer, **fields: object) -> TokenizerFiles:
    return TokenizerFiles(json=tokenizer.to_str(), **fields)


def reference_of(tokenizer: Tokenizer, template: str | None = None) -> PreTrainedTokenizerFast:
    """The same tokenizer in transformers."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    return PreTrainedTokenizerFast(
        tokenizer_object=copy, chat_template=template, clean_up_tokenization_spaces=False
    )
