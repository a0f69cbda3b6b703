"""Large arrays whose memory is used again, once nobody holds them any more.

Fresh memory costs more than what is written to it: the kernel clears it page by page. A batch of
2,048 frames of 84x84x4 bytes is gathered in 3 ms into memory used before, in 8 ms into new
(`policy-server bench --workloads parts`); all simulators wait meanwhile.
"""

from __future__ import annotations

import math
import sys

import numpy as np

MOST_BYTES = 1 << 27
"""Larger arrays are not kept: their memory may be wanted for something else."""
_OURS = 2  # references to a block that nobody else holds: the attribute, and the question


class Recycled:
    """One block of memory. Whoever was given an array of it may keep it for as long as he likes;
    the next one then gets another block."""

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """As `numpy.empty`."""
        size = math.prod(shape) * dtype.itemsize
        if size > MOST_BYTES:
            return np.empty(shape, dtype)
        if size > len(self._block) or sys.getrefcount(self._block) > _OURS:
            self._block = np.empty(size, np.uint8)
        return self._block[:size].view(dtype).reshape(shape)
