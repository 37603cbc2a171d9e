"""The ranks that a server has on another node than its own: `llmplug join`, run by an actor."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmplug.deploy.guarded import GuardedCommand
from llmplug.deploy.plugin_lists import check_here
from llmplug.errors import EngineUnavailable

if TYPE_CHECKING:
    from llmplug.deploy.plugin_lists import PluginList
    from llmplug.deploy.source import ServerSource


@dataclass(frozen=True, slots=True)
class RankHostSettings:
    """What the ranks of a node are started with.

    Attributes:
        sets: overrides beside those of the source: where the ranks meet.
        environment: what of that nobody else may read.
        plugins: of the machine that deploys; a node with others runs no ranks.
    """

    source: ServerSource
    sets: tuple[str, ...]
    environment: dict[str, str] = field(repr=False)
    plugins: PluginList


class RankHost:
    """Keeps ranks running on the node where Ray makes it, for as long as its server is there."""

    def __init__(self, settings: RankHostSettings, node: int) -> None:
        check_here(settings.plugins)
        words = ["join", "--node", str(node)]
        self._command = GuardedCommand(settings.source, words, settings.sets, settings.environment)

    async def wait_end(self) -> str:
        """Wait until no ranks can run here any more, and say why."""
        await asyncio.to_thread(self._command.wait)
        try:
            self._command.check_alive()
        except EngineUnavailable as error:
            return str(error)
        raise AssertionError("it has ended")

    async def stop(self, timeout_s: float) -> None:
        """End the ranks, by force after so many seconds."""
        await asyncio.to_thread(self._command.stop, timeout_s)
