"""A network that acts and learns, with all that one gradient step needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from policy_server.algorithms.ops.distributions import Distribution
from policy_server.algorithms.ops.heads import make_heads
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.saved import load_network, network_tensors
from policy_server.networks import PolicyNetwork
from policy_server.types import ActionLayout, PolicySpaces, PolicyState

Network = TypeVar("Network", bound=nn.Module)


def seeded(make: Callable[[], Network], seed: int, device: torch.device) -> Network:
    """A network whose first weights the seed alone decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().to(device, torch.float32)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Gradients go through the module within, but none are kept for its parameters."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class TrainedPolicy:
    """A policy network under Adam.

    Attributes:
        network: the policy and its value function.
        optimizer: over all of it.
    """

    def __init__(
        self, network: PolicyNetwork, spaces: PolicySpaces, device: torch.device, eps: float
    ):
        self.network = network
        self.optimizer = FlatAdam(network, eps)
        self._heads = make_heads(network, ActionLayout(spaces.action), device)

    def distribution(
        self,
        heads: torch.Tensor,
        mask: torch.Tensor,
        categories: torch.Tensor,
        network: PolicyNetwork | None = None,
    ) -> Distribution:
        """What heads `[N, H]` say of actions with these categories `[N, K]` under masks `[N, W]`;
        W = 0 where there are none. `network`: whose heads they are, if another's."""
        return self._heads.distribution(network or self.network, heads, mask, categories)

    def descend(
        self, loss: torch.Tensor, lr: float, clip: float | None, clip_by: str = "global_norm"
    ) -> torch.Tensor:
        """One step against the gradient of `loss`; the norm that the gradient had."""
        return self.optimizer.minimize(loss, lr, clip, clip_by)

    def state(self, **data: Any) -> PolicyState:
        """All that `load` needs to go on exactly from here; `data`: what else there is to keep."""
        return PolicyState(network_tensors(self.network) | self.optimizer.state(), data)

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned.

        Raises:
            CheckpointError: it belongs to another network.
        """
        load_network(self.network, state)
        self.optimizer.load(state.tensors)
