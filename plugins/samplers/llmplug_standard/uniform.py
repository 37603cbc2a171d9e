"""One uniform number for each (seed, position): what a draw depends on besides the logits."""

from __future__ import annotations

_UINT64 = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd


def make_uniform(seed: int, position: int) -> float:
    """Return a multiple of 2^-53 in [0, 1); no two positions of neighbouring seeds share theirs.

    Source: SplitMix64, https://prng.di.unimi.it/splitmix64.c; its output function runs twice, so
    that a seed's sequence is not a shifted copy of another's.
    """
    return (_mix(_mix(seed) + (position + 1) * _STEP) >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z &= _UINT64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _UINT64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _UINT64
    return z ^ (z >> 31)
