"""Ape-X DQN: deep Q-learning from many lanes that explore by degrees.

The objective and its loss are those of `dqn`, double and dueling, with n-step returns. What differs:

- Lane i of N acts with an epsilon of its own that never changes, 0.4 ** (1 + 7 i / (N - 1)): some
  explore, others show what the greedy policy meets.
- A new step comes into the replay buffer with its own priority, how wrong the network is about it
  now, instead of the largest so far: with so many steps most would wait for their first draw.

Source: Horgan et al., https://arxiv.org/abs/1803.00933, sections 3 and 4.1, algorithms 1 and 2.
What can be set is in `apex_options`. Where this page deviates:

- Lanes come and go, so that nobody knows N: instead of i / (N - 1) stands the i-th number of the
  van der Corput sequence (0, 1/2, 1/4, 3/4, 1/8, ...), of which the first N are spread evenly,
  whatever N is.
- Priorities of new steps are computed by the learner, as steps arrive, with the network as it
  stands, instead of by the actors with older copies. A step whose n-step return is not complete
  yet is judged by what there is of it.
- Adam instead of RMSProp; all that `dqn` deviates in.
"""

from __future__ import annotations

import torch

from policy_server.algorithms.apex_options import ApexDQNTraining
from policy_server.algorithms.dqn import dqn_loss
from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.means import Means
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.replayed import Drawn, Replayed, replayed_steps
from policy_server.algorithms.saved import load_network, network_tensors
from policy_server.algorithms.target_network import TargetNetwork
from policy_server.algorithms.trained import seeded
from policy_server.config import ModelConfig
from policy_server.networks.q_network import QNetwork, QOptions
from policy_server.replay.steps import Transitions
from policy_server.stepwise import Steps, at_once
from policy_server.types import Batch, PolicySpaces, PolicyState


class ApexDQN:
    """A policy that learns by Ape-X DQN.

    Attributes:
        network: values of actions; it acts.
        target: the network it learns from.
    """

    Training = ApexDQNTraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: ApexDQNTraining
    ) -> QNetwork:
        """Values of actions."""
        return QNetwork(spaces, model, QOptions(training.dueling))

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: ApexDQNTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device = config, device
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        self.optimizer = FlatAdam(self.network, config.adam_eps)
        self.target = TargetNetwork(self.network, self.optimizer)
        self.replayed = _replay(config, device, seed, reward_scale, reward_clip)
        self.means = Means()

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """Takes a batch in, and makes the gradient steps that are due.

        Raises:
            LearnerError: the numbers broke. The weights are spoilt: load the last state.
        """
        return at_once(self.update_in_steps(batch, env_steps))

    def update_in_steps(self, batch: Batch, env_steps: int) -> Steps[dict[str, float]]:
        """The same with a pause after each gradient step. Any thread may take any step."""
        for drawn in self.replayed.due(batch, self.errors):
            if drawn.target_is_due:
                self.target.follow(self.config.tau)
            self._learn(drawn)
            yield
        metrics = self.means.take() | self.replayed.metrics
        check_finite("ApexDQN", batch, metrics, self.optimizer.weights)
        return metrics

    @torch.no_grad()
    def errors(self, steps: Transitions) -> torch.Tensor:
        """How wrong the network is about steps, `[n]`."""
        weights = torch.ones_like(steps.rewards)
        _, terms = dqn_loss(self.network, self.target.network, steps, weights, self.config)
        return terms["errors"]

    def _learn(self, drawn: Drawn[Transitions]) -> None:
        """One gradient step."""
        c = self.config
        loss, terms = dqn_loss(self.network, self.target.network, drawn.steps, drawn.weights, c)
        norm = self.optimizer.minimize(loss, c.lr, c.grad_clip, c.grad_clip_by)
        self.replayed.surprised(drawn, terms["errors"])
        self.means.add(
            total_loss=loss, q_mean=terms["values"].mean(), td_error_mean=terms["errors"].mean(),
            grad_norm=norm,
        )  # fmt: skip

    def state(self) -> PolicyState:
        """All that `load` needs to go on from here, and exactly so with `save_replay`."""
        tensors = network_tensors(self.network) | network_tensors(self.target.network, "target")
        replay_tensors, replay = self.replayed.state()
        return PolicyState(tensors | self.optimizer.state() | replay_tensors, {"replay": replay})

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        load_network(self.network, state)
        load_network(self.target.network, state, "target")
        self.optimizer.load(state.tensors)
        self.replayed.load(state.tensors, state.data["replay"])


def _replay(
    config: ApexDQNTraining, device: torch.device, seed: int, scale: float, clip: float | None
) -> Replayed[Transitions]:
    if not config.replay_shards:
        return replayed_steps(config, device, seed, scale, clip)
    # Brings Ray with it, which one process does without.
    from policy_server.algorithms.sharded import sharded_steps

    return sharded_steps(config, config.replay_shards, device, seed, scale, clip)
