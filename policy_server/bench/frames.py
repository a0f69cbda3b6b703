"""The frames of a simulator, packed before the clock runs.

The generator must cost as little as a simulator can: a STEP is a head, four bytes of sequence
number and one of a ring of tails, put together when it is sent.
"""

from __future__ import annotations

import os

import msgpack
import numpy as np

from policy_server.bench.workloads import ACTION, Workload
from sim_clients.protocol import LOCAL_SOCKET, Bye, Flag, GroupSpec, Hello, MessageType, encode
from sim_clients.protocol.spaces import Box

ACTIONS = int(MessageType.ACTIONS)
HEAD = bytes([0x93, int(MessageType.STEP), 0xCE])
"""msgpack: an array of three, the type, and the mark of a four-byte integer."""
BYE = encode(Bye("done"))


def hello(workload: Workload) -> bytes:
    """A new run's greeting."""
    group = GroupSpec("agent", workload.observation, ACTION, workload.lanes)
    can = (LOCAL_SOCKET,)
    return encode(Hello(1, ("bench", "1"), os.urandom(16), None, None, can, None, (group,), {}))


class StepFrames:
    """All STEPs of one simulator, in a ring as long as an episode.

    Episodes of the lanes end at different steps. Every simulator begins elsewhere in the ring.

    Args:
        lengths: each frame stands behind its length, as local sockets want it.
    """

    def __init__(self, workload: Workload, simulator: int, lengths: bool = False):
        self._lengths = lengths
        rng = np.random.default_rng(simulator)
        lanes, steps = workload.lanes, workload.episode_steps
        self._offset = simulator * 61 % steps
        first = np.full(lanes, int(Flag.FIRST), np.uint8)
        self._first = _tail(rng, workload.observation, first)
        over = int(Flag.TERMINATED | Flag.FIRST)
        phase = np.arange(lanes) * 37
        self._tails = [
            _tail(
                rng,
                workload.observation,
                np.where((phase + t) % steps == 0, over, 0).astype(np.uint8),
            )
            for t in range(steps)
        ]

    def frame(self, seq: int) -> bytes:
        """The STEP of this number, from 1."""
        tail = self._first if seq == 1 else self._tails[(seq + self._offset) % len(self._tails)]
        head = HEAD
        if self._lengths:
            head = (len(HEAD) + 4 + len(tail)).to_bytes(4, "little") + HEAD
        return head + seq.to_bytes(4, "big") + tail


def observations(rng: np.random.Generator, space: Box, n: int) -> np.ndarray:
    """Random ones, `[n, *shape]`."""
    if space.dtype == np.uint8:
        return rng.integers(0, 256, (n, *space.shape), np.uint8)
    return rng.standard_normal((n, *space.shape), np.float32)


def _tail(rng: np.random.Generator, space: Box, flags: np.ndarray) -> bytes:
    n = len(flags)
    rewards = rng.standard_normal(n, np.float32)
    columns = [
        None, flags.tobytes(), rewards.tobytes(), [observations(rng, space, n).tobytes()], None
    ]  # fmt: skip
    tail: bytes = msgpack.packb([columns])
    return tail


def like_actions(workload: Workload) -> bytes:
    """What an echo answers: as long as the ACTIONS of this workload."""
    column = bytes(ACTION.dtype.itemsize * workload.lanes)
    answer: bytes = msgpack.packb([ACTIONS, 2**16, 2**31, [[1, [column]]]])
    return answer
