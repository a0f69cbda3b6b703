"""Observations -> what a policy wants to do, and what it expects.

Reading order: `policy` (the interface), `build` (from spaces to a network), then its parts:
`flatten`, `conv`, `mlp`, `encoder`; `custom` for modules of the user's own; `snapshot` for the
flat vector in which weights travel, and `weight_views` for taking one over without a copy.
"""

from policy_server.networks.build import build_network
from policy_server.networks.policy import ActingNetwork, PolicyNetwork
from policy_server.networks.snapshot import flatten_parameters, load_flat
from policy_server.networks.weight_views import WeightViews

__all__ = [
    "ActingNetwork",
    "PolicyNetwork",
    "WeightViews",
    "build_network",
    "flatten_parameters",
    "load_flat",
]
