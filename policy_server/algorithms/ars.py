"""Augmented random search: the best of some random directions, in small steps.

From n mirrored pairs with returns F+ and F- along directions delta, takes the b whose better
return, max(F+, F-), is best, and steps

    theta <- theta + lr / (b sigma_F) sum_i (F_i+ - F_i-) delta_i

where sigma_F is the deviation of these 2 b returns.

Source: Mania et al., https://arxiv.org/abs/1803.07055, algorithm 2. Its V2 normalises observations:
that is `preprocessing.normalize_observations`; its policies are linear: `model.hidden = []`. What
can be set is in `ars_options`. Where this page deviates:

- Nobody waits for the longest episode: a step takes the pairs that are complete. Their episodes
  were perturbed from the parameters that acted when they began, which may be those of a few steps
  ago.
- Returns that are all the same move nothing.
- The first parameters are small, not zero.
"""

from __future__ import annotations

import numpy as np
import torch

from policy_server.algorithms.ars_options import ARSTraining
from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.mirrored import MirroredReturns, Pairs, weighted_sum
from policy_server.algorithms.optimizer import one_vector
from policy_server.algorithms.rewards import shaped
from policy_server.algorithms.saved import load_network, network_tensors
from policy_server.algorithms.trained import seeded
from policy_server.config import ModelConfig
from policy_server.networks.actor import ActorNetwork
from policy_server.types import ActionLayout, Batch, PolicySpaces, PolicyState


def ars_direction(pairs: Pairs, top: int, seed: int, size: int) -> np.ndarray:
    """What the parameters are moved by, before the step size: float32 `[size]`."""
    better = pairs.returns.max(axis=1)
    best = np.argsort(-better, kind="stable")[:top]
    returns = pairs.returns[best]
    assert returns.shape == (top, 2)
    deviation = returns.std()
    if deviation == 0.0:
        return np.zeros(size, np.float32)
    weights = (returns[:, 0] - returns[:, 1]) / (top * deviation)
    return weighted_sum(weights, pairs.numbers[best], seed, size)


class ARS:
    """A policy that learns by augmented random search.

    Attributes:
        network: the policy, without noise.
    """

    Training = ARSTraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: ARSTraining
    ) -> ActorNetwork:
        """Logits and means."""
        layout = ActionLayout(spaces.action)
        return ActorNetwork(spaces, model, layout.mask_width + layout.reals)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: ARSTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device, self._seed = config, device, seed
        self._rewards = (reward_scale, reward_clip)
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        self._weights = one_vector([p for p in self.network.parameters() if p.requires_grad])
        self._returns = MirroredReturns()

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """A step for every `directions` pairs that this batch completed.

        Raises:
            LearnerError: the numbers broke. The weights are spoilt: load the last state.
        """
        self._returns.add(batch, shaped(batch.rewards, *self._rewards))
        metrics: dict[str, float] = {}
        steps = 0
        while pairs := self._returns.take(self.config.directions):
            metrics = self._learn(pairs)
            steps += 1
        metrics |= {
            "pairs_learned": float(steps * self.config.directions),
            "pairs_waiting": float(self._returns.waiting),
            "pairs_given_up": float(self._returns.given_up),
        }
        check_finite("ARS", batch, metrics, self._weights)
        return metrics

    @torch.no_grad()
    def _learn(self, pairs: Pairs) -> dict[str, float]:
        c = self.config
        found = ars_direction(pairs, c.top_directions, self._seed, len(self._weights))
        direction = torch.from_numpy(found).to(self.device)
        self._weights.add_(direction, alpha=c.lr)
        return {
            "perturbed_return_mean": float(pairs.returns.mean()),
            "perturbed_return_std": float(pairs.returns.std()),
            "step_norm": c.lr * torch.linalg.vector_norm(direction).item(),
        }

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here."""
        data = {"seed": self._seed, "returns": self._returns.state()}
        return PolicyState(network_tensors(self.network), data)

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned; pairs that another seed perturbed are dropped.

        Raises:
            CheckpointError: it belongs to another network.
        """
        load_network(self.network, state)
        self._returns = MirroredReturns()
        if state.data["seed"] == self._seed:
            self._returns.load(state.data["returns"])
