"""Put samplers that do several others' work in one go in the place of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmplug.engine.sampler_choice import Link

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmplug.specs import SamplerSpec


def fuse_samplers(chain: list[Link], fusers: Iterable[SamplerSpec]) -> list[Link]:
    """Return a chain in which every run of samplers that one fuses is that one."""
    for spec in fusers:
        fused: list[Link] = []
        while chain:
            length = _measure_run(chain, spec)
            if length and spec.fuse is not None:
                run, chain = chain[:length], chain[length:]
                params = spec.fuse({link.spec.name: link.params for link in run})
                fused.append(Link(spec, params))
            else:
                fused.append(chain[0])
                chain = chain[1:]
        chain = fused
    return chain


def _measure_run(chain: list[Link], spec: SamplerSpec) -> int:
    """Count the links at the start of a chain that `spec` stands for."""
    length, last = 0, -1
    for link in chain:
        name = link.spec.name
        place = spec.fuses.index(name) if name in spec.fuses else -1
        if place <= last:
            break
        length, last = length + 1, place
    return length if length and chain[length - 1].spec.stage == spec.stage else 0
