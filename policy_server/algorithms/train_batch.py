"""A batch with columns as in RLlib's SampleBatch (whose new_obs is next_obs here), as losses of the user's own see it."""

from __future__ import annotations

from typing import Any

import torch

from policy_server.algorithms.ops import distributions
from policy_server.algorithms.trajectories import Inputs

Actions = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""One choice per step: int64 `[N]`; several: int64 `[N, K]`; numbers: `[N, D]`; both: a pair of the
last two."""


class TrainBatch(dict[str, Any]):
    """N steps, one row each. Columns, all on the learner's device:

        obs, next_obs         tensors `[N, ...]`, or a tuple of them where the space has several
                              leaves. Behind a step that terminated, next_obs repeats obs.
        actions               see `Actions`
        rewards               `[N]`, scaled and clipped as the settings say
        terminateds           bool `[N]`
        truncateds            bool `[N]`
        action_logp           `[N]`, of the policy that acted
        vf_preds              `[N]`, of the value function before the update
        advantages            `[N]`, generalised advantage estimation
        value_targets         `[N]`, advantages + vf_preds
        eps_id, agent_id, t   int64 `[N]`: number of the episode, of the lane, and of the step in its
                              episode, from 0
        action_mask           uint8 `[N, W]`, 1 = allowed; only where there is one

    Attributes:
        asked: what a network is given for these steps.
    """

    def __init__(self, columns: dict[str, Any], asked: Inputs):
        super().__init__(columns)
        self.asked = asked

    def __missing__(self, name: str) -> Any:
        raise KeyError(f"expected one of the columns {', '.join(self)}, got {name!r}")


class Distribution:
    """What logits mean; made anew for each batch, of which it knows the masks."""

    def __init__(self, inner: distributions.Distribution, reals: int):
        self._inner, self._reals = inner, reals

    def log_prob(self, actions: Actions) -> torch.Tensor:
        """Of a column `actions`: `[N]`."""
        return self._inner.log_prob(*unpacked(actions, self._reals))

    def entropy(self) -> torch.Tensor:
        """`[N]`, in nats."""
        return self._inner.entropy()

    def kl(self, other: Distribution) -> torch.Tensor:
        """KL(self || other), `[N]`, in nats."""
        return self._inner.kl(other._inner)


def packed(categories: torch.Tensor, reals: torch.Tensor) -> Actions:
    """`[N, K]` and `[N, D]` as a column `actions`."""
    if reals.shape[1] and categories.shape[1]:
        return categories, reals
    if reals.shape[1]:
        return reals
    return categories.squeeze(1) if categories.shape[1] == 1 else categories


def unpacked(actions: Actions, reals: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse; `reals`: D."""
    if isinstance(actions, tuple):
        return actions
    n = len(actions)
    if reals:
        return actions.new_zeros((n, 0), dtype=torch.int64), actions
    return actions.view(n, -1), actions.new_zeros((n, 0), dtype=torch.float32)
