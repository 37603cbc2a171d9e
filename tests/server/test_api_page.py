"""docs/api.md names every field and every path."""

from __future__ import annotations

import re
from pathlib import Path

from llmplug.server.schema.chat import ChatRequest
from llmplug.server.schema.completions import CompletionsRequest
from llmplug.server.schema.fields import (
    HARMLESS,
    UNSERVED_IN_CHAT,
    UNSERVED_IN_COMPLETIONS,
)
from llmplug.server.schema.sampling import StreamOptions

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
PATHS = set(re.findall(r"`([\w.]+)", PAGE))
NAMES = {path.partition(".")[0] for path in PATHS}


def test_every_field_is_named() -> None:
    served = {*ChatRequest.model_fields, *CompletionsRequest.model_fields}
    known = served | UNSERVED_IN_CHAT.keys() | UNSERVED_IN_COMPLETIONS.keys() | HARMLESS
    assert known - NAMES == set()
    options = {f"stream_options.{name}" for name in StreamOptions.model_fields}
    assert options - PATHS == set()


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([\w./-]+\.md)", PAGE)
    assert targets
    folder = Path(__file__).parents[2] / "docs"
    assert [each for each in targets if not (folder / each).is_file()] == []
