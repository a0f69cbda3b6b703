"""R2D2: recurrent experience replay. Deep Q-learning with a memory.

Minimises, over steps t of sequences drawn from a replay buffer,

    E[ w (Q(s_t, a_t) - y_t)^2 ] / 2,
    y_t = h( sum_k<n gamma^k r_t+k + gamma^n h^-1( Q_target(s_t+n, a*) ) )

where s is the episode so far: the memory begins with the state that was stored with the sequence,
runs without gradients through `burn_in` steps, and is learned through the steps behind. a* is the
best action by Q (`double`) or by Q_target, among those that are allowed; with `rescale`
h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x squashes returns, else h(x) = x. A sequence's priority
is eta max|error| + (1 - eta) mean|error| over its steps; w are the importance weights that make up
for it.

Source: Kapturowski et al., Recurrent Experience Replay in Distributed Reinforcement Learning, ICLR
2019 (https://openreview.net/forum?id=r1lyTjAqYX), sections 2.3 and 3; double and dueling as in
`dqn`. What can be set is in `r2d2_options`. Where this page deviates:

- A sequence lies within one unroll and one episode; where there is no room for a burn-in it begins
  with the state that is known there. Inside an unroll that state is computed again, with the
  weights of when the sequence was stored.
- Sequences lie one behind the other instead of overlapping by half; only burn-ins overlap.
- The memory sees what the simulator shows: neither the last action nor the last reward.
- n-step returns are shorter at the end of a sequence, and bootstrap from what is seen there.
- All lanes explore with the same epsilon, on a schedule.
- A new sequence comes in with the largest priority so far, instead of one that whoever acts
  computes. beta stays where it is; weights are divided by the largest of a draw.
- The target network is renewed each `target_update_steps` collected steps, by default with about
  every fourth gradient step; the paper's with every 2500th. Sequences have 20 steps by default, as
  have burn-ins; the paper's 80 and 40.
- With masks the last step of an unroll, and of a truncated episode, is not learned from: which
  actions were allowed behind it is not known.
"""

from __future__ import annotations

import torch

from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.means import Means
from policy_server.algorithms.ops.masking import masked
from policy_server.algorithms.ops.rescaling import rescaled, unscaled
from policy_server.algorithms.ops.sequence_returns import sequence_returns
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.r2d2_options import R2D2Training
from policy_server.algorithms.replayed import Drawn, replayed_sequences
from policy_server.algorithms.saved import load_network, network_tensors
from policy_server.algorithms.sequences import sequence_values
from policy_server.algorithms.target_network import TargetNetwork
from policy_server.algorithms.trained import seeded
from policy_server.config import ModelConfig
from policy_server.networks.recurrent_q import RecurrentQNetwork
from policy_server.replay.sequences import DrawnSequences
from policy_server.stepwise import Steps, at_once
from policy_server.types import Batch, PolicySpaces, PolicyState


def r2d2_loss(
    online: RecurrentQNetwork,
    target: RecurrentQNetwork,
    drawn: DrawnSequences,
    weights: torch.Tensor,
    config: R2D2Training,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """This page's objective, a weighted mean over all steps of n sequences; and the values of what
    was done and how wrong they were, `[L, n]`, 0 where there is no step.

    Shapes: sequences of L steps, weights `[n]`.
    """
    steps, n = drawn.rewards.shape
    assert weights.shape == drawn.lengths.shape == (n,)
    h, h_inverse = (rescaled, unscaled) if config.rescale else (torch.clone, torch.clone)
    valid = torch.arange(steps, device=weights.device)[:, None] < drawn.lengths  # [L, n]
    q = sequence_values(online, drawn, config.burn_in)  # [L + 1, n, W]
    done = q[:-1].gather(2, drawn.categories).squeeze(2)  # [L, n]
    with torch.no_grad():
        behind = sequence_values(target, drawn, config.burn_in)
        means = masked(q if config.double else behind, drawn.mask[config.burn_in :])
        best = behind.gather(2, means.argmax(2, keepdim=True)).squeeze(2)  # [L + 1, n]
        y = h(
            sequence_returns(
                drawn.rewards, h_inverse(best), drawn.lengths, drawn.terminated,
                gamma=config.gamma, n_step=config.n_step,
            )
        )  # fmt: skip
    errors = torch.where(valid, done - y, 0.0)
    loss = 0.5 * (weights * errors.square()).sum() / valid.sum()
    return loss, {"values": torch.where(valid, done.detach(), 0.0), "errors": errors.detach().abs()}


def sequence_priorities(errors: torch.Tensor, lengths: torch.Tensor, eta: float) -> torch.Tensor:
    """`[L, n]`, 0 where there is no step, and int64 `[n]` -> `[n]`."""
    return eta * errors.amax(0) + (1 - eta) * errors.sum(0) / lengths


class R2D2:
    """A policy that learns by R2D2.

    Attributes:
        network: values of actions; it acts.
        target: the network it learns from.
    """

    Training = R2D2Training

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: R2D2Training
    ) -> RecurrentQNetwork:
        """Values of actions, with a memory."""
        return RecurrentQNetwork(spaces, model, training.dueling)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: R2D2Training,
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
        self.replayed = replayed_sequences(
            config, self.network, device, seed, reward_scale, reward_clip
        )
        self.means = Means()

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """Takes a batch in, and makes the gradient steps that are due.

        Raises:
            LearnerError: the numbers broke. The weights are spoilt: load the last state.
        """
        return at_once(self.update_in_steps(batch, env_steps))

    def update_in_steps(self, batch: Batch, env_steps: int) -> Steps[dict[str, float]]:
        """The same with a pause after each gradient step. Any thread may take any step."""
        for drawn in self.replayed.due(batch):
            if drawn.target_is_due:
                self.target.follow(self.config.tau)
            self._learn(drawn)
            yield
        metrics = self.means.take() | self.replayed.metrics
        check_finite("R2D2", batch, metrics, self.optimizer.weights)
        return metrics

    def _learn(self, drawn: Drawn[DrawnSequences]) -> None:
        """One gradient step."""
        c, sequences = self.config, drawn.steps
        network, target = self.network.train(), self.target.network
        loss, terms = r2d2_loss(network, target, sequences, drawn.weights, c)
        norm = self.optimizer.minimize(loss, c.lr, c.grad_clip, c.grad_clip_by)
        errors, lengths = terms["errors"], sequences.lengths
        self.replayed.surprised(drawn, sequence_priorities(errors, lengths, c.priority_eta))
        steps = lengths.sum()
        self.means.add(
            total_loss=loss, q_mean=terms["values"].sum() / steps,
            td_error_mean=errors.sum() / steps, grad_norm=norm,
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
