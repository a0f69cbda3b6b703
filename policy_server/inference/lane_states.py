"""What each lane remembers of its episode, where the network has a memory.

It never leaves the server. Lives on the gateway's thread.
"""

from __future__ import annotations

import numpy as np


class LaneStates:
    """States by lane, float32 `[lanes, S]`, all zeros where an episode begins.

    Attributes:
        size: S; 0: there is no memory, and nothing is kept.
        before: what each lane remembered before its last action.
        now: what it remembers behind that.
    """

    def __init__(self, size: int):
        self.size = size
        self.before = np.zeros((0, size), np.float32)
        self.now = np.zeros((0, size), np.float32)

    def add_lanes(self, lanes: int) -> None:
        """Room for lane numbers below `lanes`."""
        missing = lanes - len(self.now)
        if missing > 0:
            room = np.zeros((missing, self.size), np.float32)
            self.before = np.concatenate([self.before, room])
            self.now = np.concatenate([self.now, room])

    def forget(self, slots: np.ndarray) -> None:
        """Episodes begin on these lanes."""
        self.now[slots] = 0.0

    def take(self, slots: np.ndarray) -> np.ndarray:
        """States to act with, `[n, S]`; they are those of before from here on."""
        states: np.ndarray = self.now[slots]
        self.before[slots] = states
        return states

    def put(self, slots: np.ndarray, states: np.ndarray) -> None:
        """States behind the actions."""
        self.now[slots] = states
