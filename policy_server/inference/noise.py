"""Random numbers that belong to a lane, not to a moment.

The k-th action of a lane draws the same numbers whoever else is in its batch and in whatever
order messages arrive: they are a hash of (lane key, k, position). So a run can be repeated
exactly, over sockets as in one process.

Source: the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014), used as a counter-based generator.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_UNIT = 1.0 / 2**32
_S30, _S27, _S31, _S32 = (np.uint64(n) for n in (30, 27, 31, 32))


def lane_keys(*parts: object, lanes: int) -> np.ndarray:
    """One key per lane of a group. uint64[lanes]; `parts` name the place of the lanes."""
    text = "\0".join(map(str, parts)).encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return _mix(np.uint64(key) + np.arange(1, lanes + 1, dtype=np.uint64) * _GAMMA)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> _S30)) * _MIX1
    x = (x ^ (x >> _S27)) * _MIX2
    return x ^ (x >> _S31)


def uniforms(keys: np.ndarray, counters: np.ndarray, width: int) -> np.ndarray:
    """`width` numbers per lane, each in [0, 1 - 2**-32].

    Shapes: `keys` uint64[n], `counters` uint64[n] (how many actions the lane had) -> float64
    `[n, width]`.
    """
    ahead, stride = _steps(width)
    bits = (counters * stride + keys)[:, None] + ahead
    # In place: at a few rows the allocations are most of the cost.
    bits ^= bits >> _S30
    bits *= _MIX1
    bits ^= bits >> _S27
    bits *= _MIX2
    bits ^= bits >> _S31
    bits >>= _S32
    return bits * _UNIT


@functools.cache
def _steps(width: int) -> tuple[np.ndarray, np.uint64]:
    # Sums and products wrap at 2**64, so the counter's share can be multiplied out beforehand.
    ahead = np.arange(1, width + 1, dtype=np.uint64) * _GAMMA
    return ahead, np.uint64(width * int(_GAMMA) % 2**64)


def normals(uniform: np.ndarray) -> np.ndarray:
    """Pairs of uniforms -> as many normals. `[n, 2 * d]` -> float32 `[n, d]`.

    Source: Box and Muller, 1958.
    """
    d = uniform.shape[1] // 2
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:, :d]))
    return (radius * np.cos(2.0 * np.pi * uniform[:, d:])).astype(np.float32)
