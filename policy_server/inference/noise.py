"""Random numbers that belong to a lane, not to a moment.

The k-th action of a lane draws the same numbers whoever else is in its batch and in whatever
order messages arrive: they are a hash of (lane key, k, position). So a run can be repeated
exactly, over sockets as in one process.

Source: the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014), used as a counter-based generator.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from policy_server.compiled import compiled, part

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_UNIT = 1.0 / 2**32
_ONE = np.uint64(1)
_S27, _S30, _S31, _S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)


def lane_keys(*parts: object, lanes: int) -> np.ndarray:
    """One key per lane of a group. uint64[lanes]; `parts` name the place of the lanes."""
    text = "\0".join(map(str, parts)).encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return _mix(np.uint64(key) + np.arange(1, lanes + 1, dtype=np.uint64) * _GAMMA)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> _S30)) * _MIX1
    x = (x ^ (x >> _S27)) * _MIX2
    return x ^ (x >> _S31)


@part
def uniform(key: Any, counter: Any, width: Any, position: Any) -> Any:
    """Number `position` of the `width` that a lane draws for its action `counter`."""
    x = key + (counter * width + position + _ONE) * _GAMMA
    x = (x ^ (x >> _S30)) * _MIX1
    x = (x ^ (x >> _S27)) * _MIX2
    return ((x ^ (x >> _S31)) >> _S32) * _UNIT


@part
def draw_rows(slots: Any, keys: Any, draws: Any, width: Any) -> Any:
    """`draw`, for compiled functions."""
    numbers = np.empty((len(slots), np.int64(width)), np.float64)
    for row in range(len(slots)):
        slot = slots[row]
        for position in range(width):
            numbers[row, position] = uniform(keys[slot], draws[slot], width, np.uint64(position))
        draws[slot] += _ONE
    return numbers


@compiled("f8[:,::1](i8[::1], u8[::1], u8[::1], u8)")
def draw(slots: np.ndarray, keys: np.ndarray, draws: np.ndarray, width: int) -> np.ndarray:
    """`width` numbers for each of the lanes `slots`, each in [0, 1 - 2**-32]; they have drawn
    once more when this returns.

    Shapes: `slots` int64[n]; `keys` and `draws` (how many actions the lane had, counted up here)
    uint64 by slot -> float64 `[n, width]`.
    """
    return draw_rows(slots, keys, draws, width)


def normals(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`normal`, for whole arrays."""
    return np.sqrt(-2.0 * np.log1p(-one)) * np.cos(2.0 * np.pi * other)


@part
def normal(one: Any, other: Any) -> Any:
    """Two uniforms -> a normal.

    Source: Box and Muller, 1958.
    """
    return np.sqrt(-2.0 * np.log1p(-one)) * np.cos(2.0 * np.pi * other)
