"""Whether the installed transformers has the code of an architecture; imports none of it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether transformers is here and defines the first of `architectures` for text."""
    architecture, model_type = config["architectures"][0], str(config.get("model_type", ""))
    if not re.fullmatch(r"\w*(ForCausalLM|LMHeadModel)", architecture):
        return False
    folder = _find_models()
    # A family's text half has no folder of its own: gemma3_text is in gemma3.
    for name in (model_type, model_type.removesuffix("_text")):
        module = name.replace("-", "_")
        if folder is None or not module.isidentifier():
            return False
        code = folder / module / f"modeling_{module}.py"
        if code.is_file() and f"class {architecture}(" in code.read_text(encoding="utf-8"):
            return True
    return False


def _find_models() -> Path | None:
    found = find_spec("transformers")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "models"
