"""What is the same in every STEP and ACTIONS of n rows of one group: the msgpack between columns.

A simulator says the same thing at every step, only with other numbers in it. So the bytes around
those numbers are made once, and the numbers spliced in: what comes out is what `protocol.encode`
would write, at a fraction of its time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import numpy as np

from sim_clients.protocol import MessageType
from sim_clients.protocol.spaces import Leaf

pack: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True).pack
NIL = b"\xc0"
GROUP = b"\x95"  # an array of five: lanes, flags, rewards, observations, extras
STEP = b"\x93" + pack(int(MessageType.STEP))
ACTIONS = b"\x94" + pack(int(MessageType.ACTIONS))


def bin_head(size: int) -> bytes:
    """What stands before `size` bytes."""
    if size < 1 << 8:
        return struct.pack(">BB", 0xC4, size)
    return struct.pack(">BH", 0xC5, size) if size < 1 << 16 else struct.pack(">BI", 0xC6, size)


def array_head(count: int) -> bytes:
    """What stands before `count` elements; at most 65535."""
    return bytes([0x90 | count]) if count < 16 else struct.pack(">BH", 0xDC, count)


Cut = tuple[bytes, tuple[int, ...], np.dtype, int]
"""What stands before a column, its shape and dtype, and its bytes."""


class Layout:
    """The constant bytes of one group's part with n rows.

    Attributes:
        n: rows.
        flags, rewards: what stands before these columns.
        nobody: a zero per row.
        quiet: all that stands before the rewards where all lanes speak and none has a flag.
        observations: what stands before each leaf's column.
        actions: each leaf's column.
    """

    __slots__ = ("actions", "flags", "n", "nobody", "observations", "quiet", "rewards")

    def __init__(self, n: int, observations: Sequence[Leaf], actions: Sequence[Leaf]):
        self.n = n
        self.flags = bin_head(n)
        self.rewards = bin_head(4 * n)
        self.nobody = bytes(n)
        self.quiet = GROUP + NIL + self.flags + self.nobody + self.rewards
        self.observations = _column_heads(n, observations)
        self.actions: list[Cut] = [
            (head, (n, *leaf.shape), leaf.dtype, n * leaf.nbytes)
            for head, leaf in zip(_column_heads(n, actions), actions, strict=True)
        ]


class AnswerLayout:
    """How the ACTIONS to a STEP of these rows are laid out, if the policies' versions still hold.

    Args:
        layouts: by group, of the STEP; None where a group said nothing.
        versions: by group.
    """

    __slots__ = ("cuts", "layouts", "size", "tail")

    def __init__(self, layouts: list[Layout | None], versions: Sequence[int]):
        self.layouts = layouts
        self.cuts: list[Cut] = []
        before = array_head(len(layouts))
        for layout, version in zip(layouts, versions, strict=True):
            if layout is None:
                before += NIL
                continue
            before += array_head(2) + pack(version)
            for head, shape, dtype, size in layout.actions:
                self.cuts.append((before + head, shape, dtype, size))
                before = b""
        self.tail = before
        self.size = len(self.tail) + sum(len(head) + size for head, _, _, size in self.cuts)

    def cut(self, frame: bytes, at: int) -> list[np.ndarray] | None:
        """All columns of an ACTIONS frame whose groups begin at `at`, writable; None: it is laid
        out in another way."""
        if len(frame) - at != self.size or not frame.endswith(self.tail):
            return None
        columns = []
        for head, shape, dtype, size in self.cuts:
            if not frame.startswith(head, at):
                return None
            at += len(head)
            columns.append(np.ndarray(shape, dtype, frame, at).copy())
            at += size
        return columns


def _column_heads(n: int, leaves: Sequence[Leaf]) -> list[bytes]:
    heads = [bin_head(n * leaf.nbytes) for leaf in leaves]
    heads[0] = array_head(len(leaves)) + heads[0]
    return heads
