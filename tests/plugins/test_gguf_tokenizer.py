"""Tokenizers of GGUF files, compared with those that transformers makes."""

import dataclasses
import itertools
import json
import unicodedata

import pytest
from tokenizers import Tokenizer

from llmplug import CheckpointError
from llmplug_gguf import llmplug_model_loaders
from llmplug_gguf.byte_level import SPLITS
from llmplug_gguf.header import read_header
from llmplug_gguf.tokenizer import read_tokenizer

CORPUS = [
    "", " ", "  ", "\n", "\n\n\n", "\t\t", "\r\n", " \n \n", "a", " a", "a ", "\u00a0", "\u3000x",
    "Hello, world!", "The quick brown fox jumps over the lazy dog.",
    "I'm you're it's WE'LL he'd THEY'VE can't o'clock 'tis ''quoted''",
    "def f(x):\n    return x**2  # square\n\n\nclass A:\n\tpass\n",
    "for (int i=0;i<n;++i){ a[i]+=b[i]<<3; } // 0xDEADBEEF\r\n",
    '{"key": [1, 2.5e-10, null], "пример": "значение"}',
    "1", "12", "123", "1234567890", "3.14159", "1,000,000", "x1y22z333", "٣٤٥", "१२३", "²³¼Ⅷ",
    "2024-02-29T23:59:59Z", "+1 (555) 123-4567",
    "你好,世界!今天天气怎么样?", "こんにちは世界 カタカナ", "안녕하세요 세계", "สวัสดีชาวโลก",
    "Привет, мир! Как дела?", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "Γειά σου Κόσμε",
    "Grüße aus Köln, naïve café, Ærøskøbing", "na\u0308ive cafe\u0301 A\u030a", "ﬁ ﬂ Ⅻ ㎏ ½",
    "😀😃🤣 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽", "a😀b", "🤖: ok", "\u200b\u200d\ufeff", "e\u0301\u0301\u0301",
    "a  b   c    d     e", "   leading", "trailing   ", " \t mixed \t ws \n\n end",
    "\x00", "\x01\x02\x1b[31mred\x1b[0m\x7f", "\u2028\u2029", "\ue000\U0010ffff\ufffd",
    "mixedСкрипт文字テスト한국어", "CamelCaseAndSNAKE_CASE_and-kebab-case", "UPPER lower Title",
    "http://example.org/a/b?c=d&e=f#g", "user@example.org", "C:\\Users\\x\\y.txt", "/usr/bin/env",
    "$100 €200 £300 ¥400", "≤≥≠∑∏√∞", "—–-―", "…...", "«»„“”‘’", "!!!???", "((()))[[[]]]{{{}}}",
    "a" * 300, "ab " * 100, " " * 100, "\n" * 50, "!" * 60, "9" * 40, "é" * 40,
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor.",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
]  # fmt: skip
CONTROL = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>", "a<|im_end|>b", "<|im_end|><|im_end|>", " <|im_start|> ", "<|im_end",
    "<repo_name>x<file_sep>y", "<|im_start|><|im_end|>é😀",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(smollm2_gguf):
    (loader,) = llmplug_model_loaders()
    return loader.open(smollm2_gguf).tokenizer


@pytest.fixture(scope="module")
def header(smollm2_gguf):
    return read_header(smollm2_gguf)


@pytest.fixture(scope="module")
def tokenizer(files):
    return Tokenizer.from_str(files.json)


@pytest.fixture(scope="module")
def reference(smollm2_gguf):
    """transformers' tokenizer of the same file; loading takes it seconds, so once."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)


def with_fields(header, **fields):
    """The header with fields replaced; the name's `_` stands for `.` after `tokenizer.ggml`."""
    changed = {**header.fields, **{f"tokenizer.ggml.{key}": v for key, v in fields.items()}}
    kept = {key: value for key, value in changed.items() if value is not None}
    return dataclasses.replace(header, fields=kept)


def make_tokenizer(header, **fields) -> Tokenizer:
    return Tokenizer.from_str(read_tokenizer(with_fields(header, **fields)).json)


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


# --- the real file ------------------------------------------------------------------------------
def test_ids_and_texts_equal_transformers(tokenizer, reference):
    for text in CORPUS + CONTROL:
        # The model's own tokenizer cuts all numerals from each other, Roman ones and fractions
        # too; transformers does not know the rule `smollm` and leaves it out.
        if any(unicodedata.category(character) in {"Nl", "No"} for character in text):
            continue
        ids = reference(text, add_special_tokens=False).input_ids
        assert encode(tokenizer, text) == ids, repr(text)
        for skip in (True, False):
            expected = reference.decode(
                ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
            )
            assert tokenizer.decode(ids, skip_special_tokens=skip) == expected


def test_special_tokens_equal_transformers(files, tokenizer, reference):
    assert (files.bos_token, files.eos_token) == (reference.bos_token, reference.eos_token)
    assert files.special_tokens == {
        "unk_token": reference.unk_token,
        "pad_token": reference.pad_token,
    }
    assert files.chat_template == reference.chat_template
    added = {id_: (t.content, t.special) for id_, t in reference.added_tokens_decoder.items()}
    ours = tokenizer.get_added_tokens_decoder()
    assert {id_: (token.content, token.special) for id_, token in ours.items()} == added


def test_plain_text_gets_what_the_file_says(files, reference):
    assert files.add_bos is False
    assert reference("Hello").input_ids == reference("Hello", add_special_tokens=False).input_ids


def test_numerals_are_cut_from_each_other(tokenizer):
    joined = encode(tokenizer, "Ⅻ½")
    assert joined == encode(tokenizer, "Ⅻ") + encode(tokenizer, "½")
    assert encode(tokenizer, "a Ⅻ½") == encode(tokenizer, "a ") + joined


def test_every_text_comes_back(tokenizer):
    for text in CORPUS:
        assert tokenizer.decode(encode(tokenizer, text)) == text


# --- ways to split, with the real vocabulary ----------------------------------------------------
@pytest.mark.parametrize("pre", ["llama-bpe", "llama3", "smaug-bpe", "tekken", "gpt-2", "default"])
def test_splits_equal_transformers(header, pre):
    from transformers.integrations.gguf import convert_gguf_tokenizer

    fields = header.fields
    expected, _ = convert_gguf_tokenizer(
        "llama",
        {
            "tokenizer_type": "gpt2",
            "pre_tokenizer_type": pre,
            **{key: fields[f"tokenizer.ggml.{key}"] for key in ("tokens", "merges", "token_type")},
        },
    )
    ours = make_tokenizer(header, pre=pre)
    for text in CORPUS + CONTROL:
        assert encode(ours, text) == encode(expected, text), repr(text)


def test_qwen2_equals_its_own_class(header):
    """The class composes to Unicode's form C, which the converted tokenizer above leaves out."""
    from transformers import Qwen2Tokenizer

    fields = header.fields
    vocab = {token: id_ for id_, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    expected = Qwen2Tokenizer(vocab=vocab, merges=merges).backend_tokenizer
    ours = make_tokenizer(header, pre="qwen2")
    for text in CORPUS:
        assert encode(ours, text) == encode(expected, text), repr(text)
        assert ours.decode(encode(ours, text)) == unicodedata.normalize("NFC", text)


def test_digits_are_cut_from_each_other_where_the_rule_says_so(header):
    """Shown on a vocabulary in which digits would merge with each other and with a space."""
    letters = ["Ġ", "1", "2", "Ġ1", "12", "Ġ12", "a", "Ġa"]
    fields = {"tokens": letters, "merges": ["Ġ 1", "1 2", "Ġ1 2", "Ġ a"], "token_type": [1] * 8}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id"))
    split = {}
    for pre in ("smollm", "starcoder", "refact", "gpt-2", "qwen2", "llama-bpe"):
        ours = make_tokenizer(header, **fields, **ids, pre=pre)
        split[pre] = ours.encode(" 12 a").tokens
    assert split == {
        "smollm": ["Ġ", "1", "2", "Ġa"],
        "starcoder": ["Ġ", "1", "2", "Ġa"],
        "refact": ["Ġ", "1", "2", "Ġa"],
        "gpt-2": ["Ġ12", "Ġa"],
        "qwen2": ["Ġ", "1", "2", "Ġa"],
        "llama-bpe": ["Ġ", "12", "Ġa"],
    }


@pytest.mark.parametrize("pre", sorted(SPLITS))
def test_every_rule_keeps_every_text(header, pre):
    ours = make_tokenizer(header, pre=pre)
    for text in CORPUS:
        expected = unicodedata.normalize("NFC", text) if SPLITS[pre].is_nfc else text
        assert ours.decode(encode(ours, text)) == expected


# --- flags and fields ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"add_bos_token": True}, True),
        ({"add_bos_token": False, "pre": "llama-bpe"}, False),
        ({"add_bos_token": None, "pre": "llama-bpe"}, True),
        ({"add_bos_token": None, "pre": "qwen2"}, False),
        ({"add_bos_token": True, "bos_token_id": None}, False),
    ],
)
def test_whether_texts_begin_with_bos(header, fields, expected):
    assert read_tokenizer(with_fields(header, **fields)).add_bos is expected


def test_user_defined_tokens_are_found_whole_but_are_not_special(header):
    types = [*header.fields["tokenizer.ggml.token_type"], 4]
    tokens = [*header.fields["tokenizer.ggml.tokens"], "<think>"]
    ours = make_tokenizer(header, tokens=tokens, token_type=types)
    last = len(tokens) - 1
    assert encode(ours, "a<think>b")[1] == last
    assert ours.decode([last], skip_special_tokens=True) == "<think>"
    assert not ours.get_added_tokens_decoder()[last].special


def test_an_eos_that_is_to_be_added_is(header):
    ours = make_tokenizer(header, add_eos_token=True)
    assert ours.encode("Hello").ids == [*encode(ours, "Hello"), 2]


def test_named_chat_templates(header):
    fields = {**header.fields, "tokenizer.chat_template.tool_use": "{{ tools }}"}
    files = read_tokenizer(dataclasses.replace(header, fields=fields))
    assert files.named_templates == {"tool_use": "{{ tools }}"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pre": "no-such-rule"}, "'no-such-rule' .* is not known; known: default, gpt-2"),
        ({"pre": None}, "does not say how text is split"),
        ({"model": "rwkv"}, "tokenizer kind 'rwkv'"),
        ({"model": None}, "tokenizer kind None"),
        ({"merges": None}, "merges is missing"),
        ({"merges": ["a b", "ab"]}, "entry 1 of tokenizer.ggml.merges is no pair: 'ab'"),
        ({"token_type": [1]}, "token_type has not one entry per token"),
        ({"tokens": [1, 2]}, "tokens is no list of strings"),
        ({"bos_token_id": 10**6}, "bos_token_id is 1000000, but there are 49152 tokens"),
        ({"model": "llama", "merges": None}, "scores has not one entry per token"),
    ],
)
def test_what_cannot_be_read_is_named(header, fields, message):
    with pytest.raises(CheckpointError, match=message):
        read_tokenizer(with_fields(header, **fields))


def test_old_files_of_qwen2_need_not_say_how_text_is_split(header):
    fields = {**header.fields, "general.architecture": "qwen2"}
    del fields["tokenizer.ggml.pre"]
    old = read_tokenizer(dataclasses.replace(header, fields=fields))
    assert old.json == read_tokenizer(with_fields(header, pre="qwen2")).json


# --- SentencePiece ------------------------------------------------------------------------------
SPACE = "\u2581"


@pytest.fixture(scope="module")
def sentencepiece_header(header):
    """A vocabulary trained here, with bytes, in the order and with the scores of SentencePiece."""
    from tokenizers import models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=900, show_progress=False, limit_alphabet=150)
    )
    pieces = sorted(trained.get_vocab(), key=trained.token_to_id)
    if SPACE not in pieces:
        pieces.append(SPACE)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [2, 3, 3, *[6] * 256, *[1] * len(pieces)]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(pieces))]
    dropped = dict.fromkeys(("merges", "pre", "add_space_prefix", "add_bos_token",
                             "padding_token_id"))  # fmt: skip
    return with_fields(
        header, **dropped, model="llama", tokens=tokens, token_type=types, scores=scores,
        unknown_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def sentencepiece_ids(header, text: str) -> list[int]:
    """SentencePiece's BPE as its paper has it: join the pair with the best score, leftmost first.

    Source: https://arxiv.org/abs/1808.06226; pieces that are unknown in the end become bytes.
    """
    tokens = header.fields["tokenizer.ggml.tokens"]
    scores = header.fields["tokenizer.ggml.scores"]
    ids = {token: id_ for id_, token in enumerate(tokens) if id_ >= 259}
    pieces = list((SPACE + text.replace(" ", SPACE)) if text else "")
    while True:
        joined = [
            (-scores[ids[a + b]], place)
            for place, (a, b) in enumerate(itertools.pairwise(pieces))
            if a + b in ids
        ]
        if not joined:
            break
        place = min(joined)[1]
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    found = []
    for piece in pieces:
        found += [ids[piece]] if piece in ids else [byte + 3 for byte in piece.encode()]
    return found


def test_sentencepiece_ids_equal_the_algorithm(sentencepiece_header):
    ours = make_tokenizer(sentencepiece_header)
    for text in CORPUS:
        assert encode(ours, text) == sentencepiece_ids(sentencepiece_header, text), repr(text)


def test_sentencepiece_equals_transformers(sentencepiece_header):
    from transformers.integrations.gguf import convert_gguf_tokenizer

    fields = sentencepiece_header.fields
    expected, _ = convert_gguf_tokenizer(
        "llama",
        {
            "tokenizer_type": "llama",
            **{key: fields[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type")},
        },
    )
    ours = make_tokenizer(sentencepiece_header)
    # transformers adds no space where a text begins with one; SentencePiece does, and so do we.
    for text in (text for text in CORPUS if not text.startswith((" ", SPACE))):
        ids = encode(expected, text)
        assert encode(ours, text) == ids, repr(text)
        assert ours.decode(ids) == expected.decode(ids)


def test_sentencepiece_texts_come_back(sentencepiece_header):
    for prefix in (True, False):
        ours = make_tokenizer(sentencepiece_header, add_space_prefix=prefix)
        for text in CORPUS:
            assert ours.decode(encode(ours, text)) == text, repr(text)


def test_sentencepiece_flags(sentencepiece_header):
    files = read_tokenizer(sentencepiece_header)
    assert (files.bos_token, files.eos_token, files.add_bos) == ("<s>", "</s>", True)
    added = json.loads(files.json)["added_tokens"]
    assert [(token["id"], token["content"], token["special"]) for token in added] == [
        (0, "<unk>", True),
        (1, "<s>", True),
        (2, "</s>", True),
    ]
