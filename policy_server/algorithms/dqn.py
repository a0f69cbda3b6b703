"""Deep Q-learning, with the parts of Rainbow each behind a flag.

Minimises, over steps drawn from a replay buffer,

    E[ w huber(Q(s_t, a_t) - y_t) ],    y_t = R_t + gamma^n Q_target(s_t+n, a*)

with n-step returns R_t, where a* is the best action by Q_target, or by Q itself (`double`), among
those that are allowed; behind a step that terminated its episode the second term of y_t is 0. With
a distribution of returns (`num_atoms`) the cross-entropy of the target distribution, whose atoms
R_t + gamma^n z_i are shared out among their neighbours z (`ops.c51`), instead of the Huber loss.
Dueling streams and noisy layers are the network's (`networks.q_network`); draws by priority are
those of `replay.draws`. Q_target is a copy of Q, renewed now and then. w are the importance weights
of prioritised replay; what surprises there is |Q - y|, or, with a distribution, its divergence from
the target's. Actions are epsilon-greedy (`acting`). By default `double`, `dueling` and
`prioritized` are on, and the others off.

Source: Mnih et al., https://arxiv.org/abs/1312.5602 and Nature 518 (2015); double: van Hasselt et
al., https://arxiv.org/abs/1509.06461; prioritised: https://arxiv.org/abs/1511.05952; dueling:
https://arxiv.org/abs/1511.06581; distributional: https://arxiv.org/abs/1707.06887; noisy:
https://arxiv.org/abs/1706.10295; all together: Hessel et al., https://arxiv.org/abs/1710.02298.
What can be set is in `dqn_options`. Where this page deviates:

- Huber's loss, whose gradient is the error clipped to -1..1; Adam instead of RMSProp.
- An n-step return is shorter where the episode ends sooner, or is not known any further yet.
- Each stream is one linear layer behind hidden layers that they share, and only these are noisy.
- Rainbow's exponent of priorities is that of prioritised replay, 0.6, not its own 0.5; beta stays
  where it is instead of rising to 1; weights are divided by the largest of a draw. Its `lr` and
  `adam_eps` are those of DQN, 5e-4 and 1e-8; the paper's 6.25e-5 and 1.5e-4.
- Noise is drawn for each gradient step and for each published version: all lanes act with one, and
  `double` chooses a* with the noise of the loss, not with one of its own.
- With masks the last step of a truncated episode is not learned from: simulators do not tell which
  actions were allowed behind it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn.functional import huber_loss

from policy_server.algorithms.dqn_options import DQNTraining
from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.means import Means
from policy_server.algorithms.ops.c51 import projected
from policy_server.algorithms.ops.masking import masked
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.replayed import Drawn, replayed_steps
from policy_server.algorithms.saved import (
    generator_text,
    load_generator,
    load_network,
    network_tensors,
)
from policy_server.algorithms.target_network import TargetNetwork
from policy_server.algorithms.trained import seeded
from policy_server.config import ModelConfig
from policy_server.networks.q_network import QNetwork, QOptions
from policy_server.replay.steps import Transitions
from policy_server.stepwise import Steps, at_once
from policy_server.types import Batch, PolicySpaces, PolicyState


class Estimate(Protocol):
    """What the loss must know of the options."""

    @property
    def double(self) -> bool: ...


def dqn_loss(
    online: QNetwork,
    target: QNetwork,
    steps: Transitions,
    weights: torch.Tensor,
    config: Estimate,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """This page's objective, a weighted mean over N steps; and for each, `[N]`, the value of what
    was done and how wrong that was.

    Shapes: steps of N, weights `[N]`.
    """
    assert steps.rewards.shape == steps.discounts.shape == weights.shape == (len(weights),)
    logits = online.logits(steps.obs)  # [N, W, atoms]
    n, _, atoms = logits.shape
    done = logits[torch.arange(n), steps.categories[:, 0]]  # [N, atoms]
    with torch.no_grad():
        behind = target.logits(steps.next_obs)
        means = online.values(steps.next_obs) if config.double else target.means(behind)
        best = behind[torch.arange(n), masked(means, steps.next_mask).argmax(1)]  # [N, atoms]
    if atoms == 1:
        values, y = done.squeeze(1), steps.rewards + steps.discounts * best.squeeze(1)
        errors = (values - y).detach().abs()
        each = huber_loss(values, y, reduction="none")
    else:
        values = (torch.softmax(done, 1) * online.support).sum(1)
        wanted = projected(torch.softmax(best, 1), steps.rewards, steps.discounts, target.support)
        each = -(wanted * torch.log_softmax(done, 1)).sum(1)
        # The divergence, which is 0 where all is as expected; cross-entropy is not.
        errors = (each + torch.xlogy(wanted, wanted).sum(1)).detach().clamp(min=0.0)
    assert each.shape == values.shape == errors.shape == weights.shape
    return (weights * each).mean(), {"values": values.detach(), "errors": errors}


class DQN:
    """A policy that learns by DQN.

    Attributes:
        network: values of actions; it acts.
        target: the network it learns from.
    """

    Training = DQNTraining

    @staticmethod
    def make_network(spaces: PolicySpaces, model: ModelConfig, training: DQNTraining) -> QNetwork:
        """Values of actions."""
        return QNetwork(
            spaces,
            model,
            QOptions(
                training.dueling, training.num_atoms, training.v_min, training.v_max, training.noisy
            ),
        )

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: DQNTraining,
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
        self.replayed = replayed_steps(config, device, seed, reward_scale, reward_clip)
        self.means = Means()
        self.generator = torch.Generator().manual_seed(seed)
        self.network.redraw_noise(self.generator)

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
        self.network.redraw_noise(self.generator)
        metrics = self.means.take() | self.replayed.metrics
        check_finite("DQN", batch, metrics, self.optimizer.weights)
        return metrics

    def _learn(self, drawn: Drawn[Transitions]) -> None:
        """One gradient step."""
        c = self.config
        self.network.train().redraw_noise(self.generator)
        self.target.network.redraw_noise(self.generator)
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
        return PolicyState(
            tensors | self.optimizer.state() | replay_tensors,
            {"generator": generator_text(self.generator), "replay": replay},
        )

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        load_network(self.network, state)
        load_network(self.target.network, state, "target")
        self.optimizer.load(state.tensors)
        self.replayed.load(state.tensors, state.data["replay"])
        load_generator(self.generator, state.data["generator"])
