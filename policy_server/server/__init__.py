"""The wiring, and nothing else: build -> start -> serve -> drain -> stop.

Two wirings of the same parts. `ray_server.RayServer`: the gateway in an actor with a socket
(`gateway_actor`), each learner in an actor of its own, simulators in processes of theirs.
`local_server.LocalServer`: everything in this thread, in lockstep, no socket and no Ray. The
user's object (`algorithm.Algorithm`) cannot tell them apart. What both share: `build` makes a
gateway with its policies, `state` is what a checkpoint holds.

Importing this loads neither torch nor the gateway: the process that only wires stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policy_server.server.build import build_gateway
    from policy_server.server.local_server import LocalServer
    from policy_server.server.ray_server import RayServer, start_ray

__all__ = ["LocalServer", "RayServer", "build_gateway", "start_ray"]

_HOMES = {
    "LocalServer": "local_server",
    "RayServer": "ray_server",
    "build_gateway": "build",
    "start_ray": "ray_server",
}


if not TYPE_CHECKING:  # else a type checker would take any name for there

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'policy_server.server' has no attribute {name!r}")
        return getattr(import_module(f"policy_server.server.{_HOMES[name]}"), name)
