"""Memory with canaries, from the test kit."""

from __future__ import annotations

from llmplug.testing import GuardedMemory

__all__ = ["GuardedMemory"]
