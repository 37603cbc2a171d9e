"""Published templates of many model families: equal to transformers, and safe from users."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError as JinjaError
from tokenizers import AddedToken

from llmplug import LlmplugError
from llmplug.chat.render import ChatRenderer
from llmplug.chat.tokenizer import Tokenizer

from .vocabularies import byte_level, files_of, reference_of

WHEEL = "trl==1.16.0"  # carries the templates as data, Apache-2.0
TOKEN = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?[a-z_]{2,20}>|\[/?[A-Z_]{3,20}\]|<｜[^｜<>]{1,40}｜>")
USER, ANSWER = {"role": "user", "content": " 2 < 3 > 1 "}, {"role": "assistant", "content": "ok\n"}
SYSTEM = {"role": "system", "content": "be <b>kind</b>"}
SPECIAL = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
CONVERSATIONS = [[USER], [SYSTEM, USER, ANSWER, USER], [USER, ANSWER, USER]]


@pytest.fixture(scope="session")
def templates(cache_dir: Path) -> dict[str, str]:
    folder = cache_dir / "test-wheels"
    (wheel,) = list(folder.glob("trl-1.16.0-*.whl")) or download(folder)
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jinja")]
        return {name: archive.read(name).decode() for name in names}


def download(folder: Path) -> list[Path]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    subprocess.run([*command, str(folder), WHEEL], check=True, capture_output=True)
    return list(folder.glob("trl-1.16.0-*.whl"))


def make_tokenizer(source: str) -> tuple[Any, list[str]]:
    """A vocabulary that holds every token that the template writes."""
    texts = sorted(set(TOKEN.findall(source)))
    library = byte_level()
    library.add_tokens([AddedToken(t, special="|" in t, normalized=False) for t in texts])
    return library, texts


def as_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]


def test_equal_to_transformers(templates: dict[str, str]) -> None:
    num_equal = 0
    for name, source in templates.items():
        library, _ = make_tokenizer(source)
        ours = ChatRenderer(Tokenizer(files_of(library, **SPECIAL)), source)
        reference = reference_of(library, source)
        for messages in CONVERSATIONS:
            given = messages if ours.shape.takes_strings else as_parts(messages)
            try:
                expected = reference.apply_chat_template(
                    given, add_generation_prompt=True, return_dict=False, **SPECIAL
                )
            except (JinjaError, TypeError):
                with pytest.raises(LlmplugError):
                    ours.render(messages)
                continue
            assert ours.render(messages) == expected, name
            num_equal += 1
    assert num_equal > 2 * len(templates)


def test_no_user_writes_control_tokens(templates: dict[str, str]) -> None:
    num_checked = 0
    for name, source in templates.items():
        library, texts = make_tokenizer(source)
        tokenizer = Tokenizer(files_of(library, **SPECIAL))
        ours = ChatRenderer(tokenizer, source)

        def control(word: str, ours: ChatRenderer = ours, tokenizer: Any = tokenizer) -> list[int]:
            user = {"role": "user", "content": word}
            ids = ours.render([user, ANSWER, user])
            return [id_ for id_ in ids if id_ in tokenizer.control_ids]

        harmless = control("word")
        for text in texts:
            assert control(text) == control(f"a{text}b") == harmless, (name, text)
            num_checked += 1
    assert num_checked > 3 * len(templates)
