"""One leaf of an observation -> numbers that a dense layer can take.

The same recipe twice, in torch for the networks and in NumPy for executors without torch, so
that both see the same vector.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from sim_clients.protocol.spaces import Box, Leaf, MultiBinary, choices


def is_image(leaf: Leaf) -> bool:
    """A Box of height x width x channels."""
    return isinstance(leaf, Box) and len(leaf.shape) == 3


def some_value(leaf: Leaf) -> np.ndarray:
    """An observation that is possible: the first option, or the number nearest to 0.
    `[*leaf.shape]`"""
    if isinstance(leaf, Box):
        return np.clip(np.zeros(leaf.shape, leaf.dtype), leaf.low, leaf.high).astype(leaf.dtype)
    start = np.broadcast_to(getattr(leaf, "start", 0), leaf.shape)
    return start.astype(leaf.dtype).reshape(leaf.shape)


def byte_scale(leaf: Leaf) -> float:
    """Factor that brings full-range bytes into 0..1; 1 for everything else.

    Images of bytes always count as full-range, other Boxes only where their bounds say so.
    """
    if not isinstance(leaf, Box) or leaf.dtype != np.uint8:
        return 1.0
    full = bool((leaf.low == 0).all() and (leaf.high == 255).all())
    return 1.0 / 255.0 if full or is_image(leaf) else 1.0


class VectorPart(nn.Module):
    """A leaf as a float32 vector.

    Box and MultiBinary: flattened, times `scale`. Discrete and MultiDiscrete: one-hot of
    value - start, one block per element.

    Shapes: `[n, *leaf.shape]` -> `[n, width]`.

    Attributes:
        width: numbers per observation.
        scale: factor on plain numbers.
        offsets: int64[K], for one-hot leaves: column of a value = value + offset; else None.
    """

    def __init__(self, leaf: Leaf):
        super().__init__()
        self.shape = tuple(leaf.shape)
        self._size = math.prod(leaf.shape)
        self.scale = byte_scale(leaf)
        self.offsets: np.ndarray | None = None
        self._offsets: torch.Tensor | None
        self.register_buffer("_offsets", None, persistent=False)
        if isinstance(leaf, (Box, MultiBinary)):
            self.width = math.prod(leaf.shape)
            return
        nvec = choices(leaf)
        start = np.broadcast_to(np.reshape(getattr(leaf, "start", 0), -1), nvec.shape)
        self.width = int(nvec.sum())
        self.offsets = (np.cumsum(nvec) - nvec - start).astype(np.int64)
        self.register_buffer("_offsets", torch.from_numpy(self.offsets), persistent=False)

    def forward(self, column: torch.Tensor) -> torch.Tensor:
        """`[n, *shape]` -> float32 `[n, width]`."""
        flat = column.reshape(column.shape[0], self._size)
        if self._offsets is None:
            flat = flat.float()
            return flat if self.scale == 1.0 else flat * self.scale
        hot = torch.zeros(len(flat), self.width, device=flat.device)
        return hot.scatter_(1, flat.long() + self._offsets, 1.0)

    def numpy(self, column: np.ndarray) -> np.ndarray:
        """`[n, *shape]` -> float32 `[n, width]`, without torch."""
        flat = column.reshape(len(column), self._size)
        if self.offsets is None:
            flat = flat.astype(np.float32, copy=False)
            return flat if self.scale == 1.0 else flat * np.float32(self.scale)
        hot = np.zeros((len(flat), self.width), np.float32)
        np.put_along_axis(hot, flat.astype(np.int64) + self.offsets, np.float32(1.0), axis=1)
        return hot
