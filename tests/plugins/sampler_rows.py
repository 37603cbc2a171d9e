"""What the engine's tests of samplers need: the reference ops, on a CPU."""

from __future__ import annotations

from llmplug.testing.sampler_rows import CPU, OPS

__all__ = ["CPU", "OPS"]
