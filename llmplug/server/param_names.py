"""What a field is called where a client asked: chats and the engine have names of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.errors import InvalidRequest

Renaming = tuple[str, str]  # a pattern, and what stands in its place


def rename_field(error: InvalidRequest, names: Sequence[Renaming]) -> InvalidRequest:
    """Say `param`, and the message that names it, as an endpoint's clients know it.

    Args:
        names: applied one after another.
    """
    if error.param is None:
        return error
    name = error.param
    for pattern, here in names:
        name = re.sub(pattern, here, name)
    # Quoted, or as the first word: elsewhere "prompt" is a word like any other.
    old = re.escape(error.param)
    message = re.sub(rf"(?<=')({old})(?=['.\[])|^({old})\b", lambda _: name, str(error))
    error.args = (message,)
    error.message = message
    error.param = name
    return error
