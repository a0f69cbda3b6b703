"""Observations -> what a policy wants to do, and what it expects.

Reading order: `policy` (the interface), `build` (from spaces to a network), then its parts:
`flatten`, `conv`, `mlp`, `encoder`; `custom` for modules of the user's own; `snapshot` for the
flat vector in which weights travel.
"""

from policy_server.networks.build import build_network
from policy_server.networks.policy import PolicyNetwork
from policy_server.networks.snapshot import can_view, flatten_parameters, load_flat, view_flat

__all__ = [
    "PolicyNetwork",
    "build_network",
    "can_view",
    "flatten_parameters",
    "load_flat",
    "view_flat",
]
