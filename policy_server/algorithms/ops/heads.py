"""What the heads of a network mean, whichever kind they are."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from policy_server.algorithms.ops.distributions import Distribution, HeadLayout
from policy_server.networks.own_distribution import OwnDistribution
from policy_server.networks.policy import ActingNetwork
from policy_server.types import ActionLayout


class Heads(Protocol):
    """Reads heads."""

    def distribution(
        self,
        network: ActingNetwork,
        heads: torch.Tensor,
        mask: torch.Tensor,
        categories: torch.Tensor,
    ) -> Distribution:
        """The distributions that `network` describes by heads `[N, H]` under masks `[N, W]` (W = 0
        where there are none), to be asked about actions with these categories, `[N, K]`."""
        ...

    def pack(self, distribution: Any) -> torch.Tensor:
        """As columns `[N, ...]`, to keep it beside the steps it belongs to."""
        ...

    def unpack(self, columns: torch.Tensor) -> Distribution:
        """The inverse."""
        ...


class PlainHeads:
    """All parts of an action are independent of one another."""

    def __init__(self, layout: ActionLayout, device: torch.device):
        self._columns = HeadLayout(layout, device)
        self.pack, self.unpack = self._columns.pack, self._columns.unpack

    def distribution(
        self,
        network: ActingNetwork,
        heads: torch.Tensor,
        mask: torch.Tensor,
        categories: torch.Tensor,
    ) -> Distribution:
        """As `Heads.distribution`; the categories do not matter."""
        return self._columns.distribution(heads, network.log_std, mask if mask.shape[1] else None)


class ChainedHeads(PlainHeads):
    """Each part depends on the choices before it.

    What comes out is the distribution of each part given the choices that were taken before it, so
    that log-probabilities add up to that of the whole action. So do entropies and divergences, to
    estimates from one sample of those of the whole action: exact on average where the categories
    are the policy's own. Their gradient leaves out that the odds of a choice also decide how much
    is left open behind it.
    """

    def distribution(
        self,
        network: ActingNetwork,
        heads: torch.Tensor,
        mask: torch.Tensor,
        categories: torch.Tensor,
    ) -> Distribution:
        """As `Heads.distribution`."""
        assert network.autoregressive is not None
        plain = network.autoregressive.given(heads, categories)
        return super().distribution(network, plain, mask, categories)


class OwnHeads:
    """Heads are the parameters of a distribution of the user's own."""

    def __init__(self, layout: ActionLayout, own: type[OwnDistribution]):
        self._layout, self._own, self._width = layout, own, own.width(layout)

    def distribution(
        self,
        network: ActingNetwork,
        heads: torch.Tensor,
        mask: torch.Tensor,
        categories: torch.Tensor,
    ) -> Distribution:
        """As `Heads.distribution`; the categories do not matter."""
        return self._own(heads, mask if mask.shape[1] else None, self._layout)

    def pack(self, distribution: Any) -> torch.Tensor:
        """Parameters and mask."""
        parameters, mask = distribution.parameters, distribution.mask
        return parameters if mask is None else torch.cat([parameters, mask.float()], dim=1)

    def unpack(self, columns: torch.Tensor) -> Distribution:
        parameters, mask = columns[:, : self._width], columns[:, self._width :]
        return self._own(parameters, mask if mask.shape[1] else None, self._layout)


def make_heads(network: ActingNetwork, layout: ActionLayout, device: torch.device) -> Heads:
    """What reads the heads of `network`, and of others like it."""
    if network.own is not None:
        return OwnHeads(layout, network.own)
    return (PlainHeads if network.autoregressive is None else ChainedHeads)(layout, device)
