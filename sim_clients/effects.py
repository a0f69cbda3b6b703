"""What a connection asks of whoever owns its socket, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from sim_clients.errors import ClientError
from sim_clients.protocol import Error, Event, Welcome


class Send(NamedTuple):
    """Put this frame on the wire."""

    frame: bytes


class Reconnect(NamedTuple):
    """Close the socket and open a new one."""


class Move(NamedTuple):
    """Go on over the server's local socket, if it can be reached."""

    path: str


class Answered(NamedTuple):
    """The ACTIONS of a request, by group, each `[version, columns]` and not yet checked."""

    request: Any
    groups: list[Any]


class Unheard(NamedTuple):
    """Nothing at all has come for so long; said once until something does."""

    seconds: float


class Refused(NamedTuple):
    """The server would not take this request; it is no longer under way."""

    request: Any
    error: Error


class Welcomed(NamedTuple):
    """A session stands. `replaced`: an earlier one is lost, with all the server knew of lanes."""

    welcome: Welcome
    replaced: bool


class Delayed(NamedTuple):
    """The server is there but will not serve yet; the connection keeps asking."""

    error: Error


class Told(NamedTuple):
    """The server told something that is not about one request."""

    event: Event


class Ponged(NamedTuple):
    token: int


class Over(NamedTuple):
    """Nothing more will come of this connection."""

    error: ClientError


Effect = (
    Send
    | Reconnect
    | Move
    | Unheard
    | Answered
    | Refused
    | Welcomed
    | Delayed
    | Told
    | Ponged
    | Over
)


@dataclass
class Stats:
    """Counts since the client was made. `sent = acknowledged + refused + lost_steps + in flight`.

    Attributes:
        sent: steps the simulator handed over.
        acknowledged: answered with ACTIONS.
        refused: answered with an ERROR.
        lost_steps: never sent, because an earlier one was unanswered after its deadline.
        retries: repeats of a HELLO or of outstanding STEPs.
        reconnects: new sockets after silence, or where the old one broke.
        sessions: sessions begun (1 unless a server forgot us).
        waits: EVENT wait received.
        unreadable: frames from the server that are no message.
    """

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    lost_steps: int = 0
    retries: int = 0
    reconnects: int = 0
    sessions: int = 0
    waits: int = 0
    unreadable: int = 0

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}
