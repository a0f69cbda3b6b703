"""The messages of wire version 1 as plain named tuples, in the order of their fields there."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from sim_clients.protocol.spaces import Space


class MessageType(IntEnum):
    """First element of every frame."""

    HELLO = 1
    WELCOME = 2
    STEP = 3
    ACTIONS = 4
    EXPERIENCE = 5  # reserved
    WEIGHTS = 6  # reserved
    PING = 7
    PONG = 8
    EVENT = 9
    ERROR = 10
    BYE = 11


class Flag:
    """Bits of a lane's flag byte in STEP. The endings speak of the action before this message,
    FIRST, CONTINUED and LEAVING of the observation in it."""

    FIRST = 1  # the observation begins an episode
    TERMINATED = 2  # the previous action ended the episode: value 0 behind it
    TRUNCATED = 4  # the previous action's step was the last one recorded: bootstrap
    LEAVING = 8  # no action wanted: the lane goes idle; the observation is the final one
    CONTINUED = 16  # mid-episode, and the server did not see (all of) what came before

    ENDED = TERMINATED | TRUNCATED
    ALL = 31


class EventKind:
    """What an EVENT tells the simulator."""

    WAIT = "wait"  # the reply to `seq` will come; be patient
    PAUSE = "pause"
    RESUME = "resume"
    DRAIN = "drain"  # the server stops soon; replies still come
    PARAMETERS = "parameters"  # new environment parameters in `data`
    SHUTDOWN = "shutdown"  # the server stops now; come back later

    ALL = frozenset({"wait", "pause", "resume", "drain", "parameters", "shutdown"})


class GroupSpec(NamedTuple):
    """Agents of one simulator that share a policy and spaces."""

    name: str
    observation_space: Space
    action_space: Space
    lanes: int
    mask: bool = False  # every STEP of this group carries an action mask


class Hello(NamedTuple):
    version: int
    client: tuple[str, str]  # name and version of the client library
    run_id: bytes  # 16 random bytes, made at process start
    resume: bytes | None  # session id of the session to go on with
    identity: str | None  # a stable name of this simulator over restarts ("arena-3")
    capabilities: tuple[str, ...]
    token: str | None
    groups: tuple[GroupSpec, ...]
    options: dict[str, Any] = {}  # noqa: RUF012 - "lease_s": wanted lease, seconds


class Welcome(NamedTuple):
    version: int
    session_id: bytes  # 16 bytes
    epoch: int  # random per server start, 1 .. 2**32-1
    resumed: bool  # False: sequence numbers begin at 1, open lanes say CONTINUED
    next_seq: int  # first sequence number the server has not accepted
    limits: dict[str, Any]
    groups: tuple[tuple[str, int], ...]  # (policy name, its version)
    parameters: dict[str, Any]


class StepGroup(NamedTuple):
    """One group's columns; n rows, one per lane that speaks."""

    lanes: bytes | None  # uint32[n]; None: all lanes, in order
    flags: bytes  # uint8[n]
    rewards: bytes  # float32[n], for the previous action
    observations: list[bytes]  # one column per leaf
    extras: dict[str, Any] | None = None  # mask, final_obs, action, metrics


class Step(NamedTuple):
    seq: int
    groups: list[StepGroup | None]  # in the order of HELLO


class ActionsGroup(NamedTuple):
    version: int  # policy version that chose these actions
    actions: list[bytes]  # one column per leaf, rows as in the STEP


class Actions(NamedTuple):
    seq: int
    epoch: int
    groups: list[ActionsGroup | None]


class Ping(NamedTuple):
    token: int


class Pong(NamedTuple):
    token: int
    epoch: int


class Event(NamedTuple):
    kind: str
    seq: int | None
    data: dict[str, Any]


class Error(NamedTuple):
    code: str
    fatal: bool
    seq: int | None
    text: str


class Bye(NamedTuple):
    reason: str


Message = Hello | Welcome | Step | Actions | Ping | Pong | Event | Error | Bye
