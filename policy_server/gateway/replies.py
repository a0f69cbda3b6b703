"""ACTIONS frames, put together from the action columns of a tick without packing objects."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import msgpack
import numpy as np

from sim_clients.protocol import MessageType

if TYPE_CHECKING:
    from policy_server.gateway.desk import PolicyDesk
    from policy_server.gateway.request import Request

_HEAD = bytes([0x94, int(MessageType.ACTIONS)])  # an array of four, and the type
_NIL = b"\xc0"
_PACKER = msgpack.Packer()
_pack = _PACKER.pack


@functools.lru_cache(4096)
def _bin_head(size: int) -> bytes:
    head: bytes = _pack(bytes(size))
    return head[: len(head) - size]


@functools.lru_cache(256)
def _array_head(size: int) -> bytes:
    head: bytes = _PACKER.pack_array_header(size)
    return head


class Replies:
    """What the policies chose in a tick, and how it is sent.

    [ACTIONS, seq, epoch, [nil or [version, [column, ...]], ...]], canonical msgpack.
    """

    def __init__(self, epoch: int):
        self._epoch: bytes = _pack(epoch)
        self._columns: dict[PolicyDesk, list[tuple[bytes, int]]] = {}

    def put(self, desk: PolicyDesk, columns: list[np.ndarray]) -> None:
        """Actions of all rows of a desk in this tick, one array per leaf; none where there are
        no rows."""
        self._columns[desk] = [(c.tobytes(), c.nbytes // len(c)) for c in columns]

    def frame(self, request: Request) -> bytes:
        """The answer to one request."""
        session = request.session
        if request.parts is session.parts and len(request.parts) == 1:
            _, desk, part = request.parts[0]
            columns = self._columns[desk]
            if len(columns) == 1:
                # By far the most frequent kind. Such answers differ in number and data only.
                version, between = session.template.between
                if version != desk.version:
                    between = b"".join(self._pieces(request)[2:-1])
                    session.template.between = desk.version, between
                data, size = columns[0]
                at = request.spans[0] * size
                return _HEAD + _pack(request.seq) + between + data[at : at + part.rows * size]
        return b"".join(self._pieces(request))

    def _pieces(self, request: Request) -> list[bytes]:
        groups = len(request.session.groups)
        pieces = [_HEAD, _pack(request.seq), self._epoch, _array_head(groups)]
        group = 0
        for (number, desk, part), at in zip(request.parts, request.spans, strict=True):
            pieces += [_NIL] * (number - group)
            group = number + 1
            columns = self._columns[desk]
            pieces += [b"\x92", _pack(desk.version), _array_head(len(columns))]
            for data, size in columns:
                begin, length = at * size, part.rows * size
                pieces += [_bin_head(length), data[begin : begin + length]]
        return pieces + [_NIL] * (groups - group)
