"""Evolution strategies: the return's gradient from episodes with noise in the parameters.

Maximises E[ F(theta + sigma eps) ] over theta, eps standard normal, F the return of an episode, by
Adam on the estimate

    g = 1 / (2 n) sum_i (u_i+ - u_i-) eps_i  -  c_wd theta

from n mirrored pairs, theta + sigma eps_i and theta - sigma eps_i, where u are the centred ranks of
their 2 n returns: the worst has -1/2, the best 1/2.

Source: Salimans et al., https://arxiv.org/abs/1703.03864, algorithm 2 and section 2.1. What can be
set is in `es_options`. Where this page deviates:

- g lacks the factor 1 / sigma of the paper's algorithm, as in the authors' code: to Adam the size
  of the gradient is nothing, but `weight_decay` is measured against it.
- Equal returns have the mean of their ranks, so that pairs that do not differ move nothing.
- Nobody waits for the longest episode of a generation: a step takes the pairs that are complete.
  Their episodes were perturbed from the parameters that acted when they began, which may be those
  of a few steps ago.
- Actions are the mode of the policy: all noise is in the parameters.
"""

from __future__ import annotations

import numpy as np
import torch

from policy_server.algorithms.es_options import ESTraining
from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.mirrored import MirroredReturns, Pairs, weighted_sum
from policy_server.algorithms.ops.ranks import centered_ranks
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.rewards import shaped
from policy_server.algorithms.saved import load_network, network_tensors
from policy_server.algorithms.trained import seeded
from policy_server.config import ModelConfig
from policy_server.networks.actor import ActorNetwork
from policy_server.types import ActionLayout, Batch, PolicySpaces, PolicyState


def es_gradient(pairs: Pairs, seed: int, size: int) -> np.ndarray:
    """The estimate without weight decay, uphill: float32 `[size]`."""
    u = centered_ranks(pairs.returns)
    assert u.shape == (len(pairs.numbers), 2)
    return weighted_sum((u[:, 0] - u[:, 1]) / u.size, pairs.numbers, seed, size)


class ES:
    """A policy that learns by evolution strategies.

    Attributes:
        network: the policy, without noise.
    """

    Training = ESTraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: ESTraining
    ) -> ActorNetwork:
        """Logits and means."""
        layout = ActionLayout(spaces.action)
        return ActorNetwork(spaces, model, layout.mask_width + layout.reals)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: ESTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device, self._seed = config, device, seed
        self._rewards = (reward_scale, reward_clip)
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        self.optimizer = FlatAdam(self.network, config.adam_eps)
        self._returns = MirroredReturns()

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """A gradient step for every `directions` pairs that this batch completed.

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
        check_finite("ES", batch, metrics, self.optimizer.weights)
        return metrics

    def _learn(self, pairs: Pairs) -> dict[str, float]:
        optimizer = self.optimizer
        weights, gradient = optimizer.weights, optimizer.gradient
        uphill = es_gradient(pairs, self._seed, len(weights))
        gradient.copy_(
            self.config.weight_decay * weights - torch.from_numpy(uphill).to(self.device)
        )
        norm = optimizer.gradient_norm()
        optimizer.step(self.config.lr)
        return {
            "perturbed_return_mean": float(pairs.returns.mean()),
            "perturbed_return_std": float(pairs.returns.std()),
            "grad_norm": norm.item(),
        }

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here."""
        tensors = network_tensors(self.network) | self.optimizer.state()
        return PolicyState(tensors, {"seed": self._seed, "returns": self._returns.state()})

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned; pairs that another seed perturbed are dropped.

        Raises:
            CheckpointError: it belongs to another network.
        """
        load_network(self.network, state)
        self.optimizer.load(state.tensors)
        self._returns = MirroredReturns()
        if state.data["seed"] == self._seed:
            self._returns.load(state.data["returns"])
