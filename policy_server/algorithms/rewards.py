"""Rewards as they are learned from."""

from __future__ import annotations

import numpy as np


def shaped(rewards: np.ndarray, scale: float, clip: float | None) -> np.ndarray:
    """Times `scale`, then clipped to +- `clip`; None: not. float32, of any shape."""
    scaled: np.ndarray = rewards * np.float32(scale)
    return scaled if clip is None else scaled.clip(-clip, clip)
