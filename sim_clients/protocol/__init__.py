"""The wire, version 1: bytes <-> messages. No sockets, no clocks, no torch.

`docs/PROTOCOL.md` is the normative text; this package is its Python reading, used by
the clients and by the server alike.
"""

from sim_clients.protocol.codec import decode, encode, unpack
from sim_clients.protocol.errors import ErrorCode, ProtocolError
from sim_clients.protocol.messages import (
    Actions,
    ActionsGroup,
    Bye,
    Error,
    Event,
    EventKind,
    Flag,
    GroupSpec,
    Hello,
    MessageType,
    Ping,
    Pong,
    Step,
    StepGroup,
    Welcome,
)
from sim_clients.protocol.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Space,
    Tuple,
)
from sim_clients.protocol.version import HEAD_BYTES, LOCAL_SOCKET, PROTOCOL_VERSION

__all__ = [
    "HEAD_BYTES",
    "LOCAL_SOCKET",
    "PROTOCOL_VERSION",
    "Actions",
    "ActionsGroup",
    "Box",
    "Bye",
    "Dict",
    "Discrete",
    "Error",
    "ErrorCode",
    "Event",
    "EventKind",
    "Flag",
    "GroupSpec",
    "Hello",
    "MessageType",
    "MultiBinary",
    "MultiDiscrete",
    "Ping",
    "Pong",
    "ProtocolError",
    "Space",
    "Step",
    "StepGroup",
    "Tuple",
    "Welcome",
    "decode",
    "encode",
    "unpack",
]
