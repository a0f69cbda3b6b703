"""A group as central critics take it: own views for actors, one view of everything for critics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from policy_server.algorithms.groups import GroupSpaces
from policy_server.errors import UnsupportedSpaceError
from policy_server.networks.side_by_side import Share
from policy_server.types import ActionLayout, Batch, PolicySpaces
from sim_clients.protocol.spaces import Dict, Space


class Central:
    """Who sees what.

    Attributes:
        group: the spaces of all.
        agents: how many.
        spaces: of the critics: what all agents see, and the state where there is one.
    """

    def __init__(self, spaces: PolicySpaces):
        self.group = group = GroupSpaces.of(spaces)
        self.agents = len(group.members)
        whole = spaces.observation
        assert isinstance(whole, Dict)
        seen: dict[str, Space] = {k: part for k, part in whole.spaces.items() if k != "rewards"}
        self.spaces = PolicySpaces(Dict(seen), spaces.action)

    def shares(self, algorithm: str, share_parameters: bool) -> list[Share]:
        """What each actor sees and does.

        Raises:
            UnsupportedSpaceError: parameters are to be shared by agents that are not alike.
        """
        if share_parameters and not self.group.alike:
            described = ", ".join(
                f"{one.name}: {one.observation} -> {one.action}" for one in self.group.members
            )
            raise UnsupportedSpaceError(
                f"{algorithm}: training.share_parameters = true expects agents with the same spaces, "
                f"got {described}: set it to false, so that each has a network of its own."
            )
        return [
            Share(PolicySpaces(one.observation, one.action), one.leaves)
            for one in self.group.members
        ]

    def view(self, obs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """What critics see of whole observations: all leaves but the rewards."""
        return tuple(leaf for i, leaf in enumerate(obs) if i != self.group.rewards)

    def rewards(self, batch: Batch) -> np.ndarray:
        """What each agent got for each step, float32 `[T, B, N]`; of what all share `[T, B, 1]`.

        That they add up the gateway has seen to (`gateway.told_rewards`).
        """
        place = self.group.rewards
        if place is None:
            return batch.rewards[:, :, None]
        found = batch.obs[place][1:].copy()
        t, b = batch.final_index.T
        found[t, b] = batch.final_obs[place]
        return found

    def columns(self, layout: ActionLayout) -> list[slice]:
        """Which columns of the actions of all, as critics read them, are whose."""
        return [one.reals if layout.reals else one.mask for one in self.group.members]
