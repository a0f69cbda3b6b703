"""Sessions and desks as far as frames are read and answered; nothing is served behind them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policy_server.gateway.checks import ColumnChecks
from policy_server.gateway.columns import ColumnReader, Columns
from policy_server.gateway.session import Session, SessionGroup
from policy_server.gateway.template import StepTemplate
from policy_server.types import ActionLayout
from sim_clients.protocol import GroupSpec, Hello
from sim_clients.protocol.spaces import Space, leaves


@dataclass(eq=False)
class Desk:
    """What a frame's way needs of a `PolicyDesk`."""

    name: str
    observation: Space
    action: Space
    mask: bool = False
    version: int = 0
    seated: int = 0
    reader: ColumnReader = field(init=False)
    checks: ColumnChecks = field(init=False)

    def __post_init__(self) -> None:
        layout = ActionLayout(self.action)
        self.reader = ColumnReader(leaves(self.observation), layout, self.mask)
        self.checks = ColumnChecks(self.reader, layout)


@dataclass
class Sessions:
    """Those who may speak, by peer: what a `FrameReader` needs of a session table."""

    by_peer: dict[bytes, Session] = field(default_factory=dict)

    def add(self, peer: bytes, groups: list[tuple[Desk, int]], template: StepTemplate) -> Session:
        """A session with these lanes at these desks. Slots go backwards, so that no lane has its
        own number."""
        seats = []
        for number, (desk, lanes) in enumerate(groups):
            spec = GroupSpec(f"g{number}", desk.observation, desk.action, lanes, desk.mask)
            slots = 1000 - np.arange(desk.seated, desk.seated + lanes, dtype=np.int64)
            desk.seated += lanes
            seats.append(SessionGroup(spec, desk, slots))  # type: ignore[arg-type]
        hello = Hello(1, ("t", "1"), peer * 16, None, None, (), None, tuple(s.spec for s in seats))
        session = Session(peer * 16, hello, peer, seats, template, 60.0, 0.0, "")
        self.by_peer[peer] = session
        return session


def sessions_alike(
    groups: list[tuple[Desk, int]], count: int, plain: bool = True
) -> tuple[Sessions, list[Session]]:
    """So many sessions that share a template. Not `plain`: no frame of theirs looks as expected,
    so that all are read in the general way."""
    table = Sessions()
    specs = [
        (GroupSpec("", desk.observation, desk.action, lanes, desk.mask), desk)
        for desk, lanes in groups
    ]
    template = StepTemplate(specs, 1 << 28)  # type: ignore[arg-type]
    made = [table.add(bytes([65 + i]), groups, template) for i in range(count)]
    for session in made:
        if not plain:
            session.expected = ()
    return table, made


def content(columns: Columns) -> list[Any]:
    """Everything that columns say, byte for byte."""
    said: list[Any] = []
    arrays = [columns.slots, columns.flags, columns.rewards, *columns.observations, columns.mask]
    for part in itertools.chain(
        arrays, *((rows, *of) for rows, of in filter(None, [columns.finals, columns.executed]))
    ):
        said.append(None if part is None else (part.dtype, part.shape, part.tobytes()))
    said += [columns.finals is None, columns.executed is None, columns.metrics]
    return said
