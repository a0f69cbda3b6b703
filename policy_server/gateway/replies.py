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
    from policy_server.gateway.template import StepTemplate

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
    """What the policies chose in one tick, and how it is sent.

    [ACTIONS, seq, epoch, [nil or [version, [column, ...]], ...]], canonical msgpack.
    """

    def __init__(self, epoch: int):
        self._epoch: bytes = _pack(epoch)
        self._columns: dict[PolicyDesk, tuple[bytes, list[tuple[bytes, int]]]] = {}
        self._alike: dict[StepTemplate, tuple[bytes, bytes, int]] = {}

    def add(self, desk: PolicyDesk, columns: list[np.ndarray]) -> None:
        """Actions of all rows of a desk, one array per leaf; no columns where there are no rows."""
        head = b"\x92" + _pack(desk.version) + _array_head(len(columns))
        self._columns[desk] = (head, [(c.tobytes(), c.nbytes // len(c)) for c in columns])

    def frame(self, request: Request) -> bytes:
        """The answer to one request."""
        session = request.session
        if request.parts is not session.parts:
            return b"".join(self._pieces(request))
        alike = self._alike.get(session.template)
        if alike is None:
            # Answers to requests that are alike differ in number and data only.
            *pieces, data = self._pieces(request)
            if len(request.parts) > 1 or len(self._columns[request.parts[0][1]][1]) > 1:
                return b"".join([*pieces, data])
            between = b"".join(pieces[2:])
            data, size = self._columns[request.parts[0][1]][1][0]
            alike = self._alike[session.template] = between, data, size
        between, data, size = alike
        at = request.spans[0] * size
        return (
            _HEAD + _pack(request.seq) + between + data[at : at + request.parts[0][2].rows * size]
        )

    def _pieces(self, request: Request) -> list[bytes]:
        pieces = [_HEAD, _pack(request.seq), self._epoch, _array_head(len(request.session.groups))]
        group = 0
        for (number, desk, part), at in zip(request.parts, request.spans, strict=True):
            pieces += [_NIL] * (number - group)
            group = number + 1
            head, columns = self._columns[desk]
            pieces.append(head)
            for data, size in columns:
                begin, length = at * size, part.rows * size
                pieces.append(_bin_head(length))
                pieces.append(data[begin : begin + length])
        return pieces + [_NIL] * (len(request.session.groups) - group)
