"""The light side of the policy server: what a simulator needs, and nothing else.

Importing this package loads numpy, pyzmq and msgpack at most. Reading order: `client.Client`
(arrays in, arrays out), `episodes.EpisodeClient` (one episode at a time), then the runners
`gymnasium.run_gymnasium` and `pettingzoo.run_pettingzoo`. `docs/PROTOCOL.md` is the wire.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim_clients.client import Client
    from sim_clients.columns import Group, Lanes, Rows
    from sim_clients.episodes import EpisodeClient
    from sim_clients.errors import (
        ClientError,
        InvalidStep,
        RequestRefused,
        ServerClosed,
        SessionRefused,
        StepTimeout,
    )
    from sim_clients.gymnasium import run_gymnasium
    from sim_clients.pettingzoo import run_pettingzoo

__all__ = [
    "Client",
    "ClientError",
    "EpisodeClient",
    "Group",
    "InvalidStep",
    "Lanes",
    "RequestRefused",
    "Rows",
    "ServerClosed",
    "SessionRefused",
    "StepTimeout",
    "run_gymnasium",
    "run_pettingzoo",
]

# Resolved on first use, because the server imports `sim_clients.protocol` too and needs no socket.
_HOMES = {
    "Client": "client",
    "EpisodeClient": "episodes",
    "Group": "columns",
    "Lanes": "columns",
    "Rows": "columns",
    "run_gymnasium": "gymnasium",
    "run_pettingzoo": "pettingzoo",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sim_clients' has no attribute {name!r}")
    return getattr(import_module(f"sim_clients.{_HOMES.get(name, 'errors')}"), name)
