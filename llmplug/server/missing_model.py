"""A model of the config that cannot be served: it is listed, and asked for in vain."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from llmplug.errors import EngineUnavailable
from llmplug.server.model_service import make_card


@dataclass(frozen=True, slots=True)
class MissingModel:
    """One whose files could not be fetched or read when the server started."""

    name: str
    aliases: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))
    state: str = "failed"

    def card(self) -> dict[str, Any]:
        """OpenAI's model object."""
        return make_card(self.name, self.created, self.state, self.aliases)

    def refuse(self) -> EngineUnavailable:
        """What a request for it is told."""
        return EngineUnavailable(
            f"The files of the model '{self.name}' could not be read when the server started; its "
            "log says why."
        )
