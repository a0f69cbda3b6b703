"""QMIX: the value of what several agents do together, monotonic in what each thinks of its part.

Each agent i has a utility Q_i(o_i, a_i) of what it alone sees (with `model.memory`, of its episode
so far), and a mixing network, which sees the state s of the whole, makes of them

    Q_tot(s, a) = f(Q_1(o_1, a_1), ..., Q_N(o_N, a_N); s),    dQ_tot / dQ_i >= 0,

so that each agent, by choosing what is best to it, chooses what is best for all: f is a network of
one hidden layer whose weights are absolute values of what other networks make of s
(`networks.mixer`). Over steps t of sequences drawn from a replay buffer,

    E[ w (Q_tot(s_t, a_t) - y_t)^2 ] / 2,
    y_t = sum_k<n gamma^k r_t+k + gamma^n Q_tot_target(s_t+n, a*)

is minimised; a* are the agents' best actions by Q_i (`double`) or by their slow copies, among those
that are allowed. Where the group tells no state, the mixing network sees what all agents see. With
`mixer` "vdn" f is the sum. w are the importance weights of prioritised replay, where a sequence's
priority is the mean of |error| over its steps.

Source: Rashid et al., QMIX, https://arxiv.org/abs/1803.11485, section 4, equations 5 and 6; Sunehag
et al., Value-decomposition networks, https://arxiv.org/abs/1706.05296. What can be set is in
`qmix_options`. Where this page deviates:

- n-step returns, shorter at the end of a sequence; `double` is on unless it is switched off.
- Sequences of bounded length, which begin with the memory's stored state, instead of whole
  episodes. The slow copies are renewed each `target_update_steps` collected steps, instead of 200
  episodes.
- Agents see what their simulator shows them: not their last action, unless it is part of that.
- Adam instead of RMSProp; utilities have no memory unless `model.memory` says so.
- Errors beyond `ERROR_LIMIT` are not learned from.
- With masks the last step of an unroll, and of a truncated episode, is not learned from: which
  actions were allowed behind it is not known.
"""

from __future__ import annotations

import torch
from torch import nn

from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.groups import GroupSpaces
from policy_server.algorithms.means import Means
from policy_server.algorithms.ops.masking import masked
from policy_server.algorithms.ops.sequence_returns import sequence_returns
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.qmix_options import QMIXTraining
from policy_server.algorithms.replayed import Drawn, replayed_sequences
from policy_server.algorithms.saved import load_network, network_tensors
from policy_server.algorithms.sequences import sequence_values
from policy_server.algorithms.target_network import TargetNetwork
from policy_server.algorithms.trained import seeded
from policy_server.config import ModelConfig
from policy_server.networks.group_q import GroupQNetwork
from policy_server.networks.mixer import MonotonicMixer, SumMixer
from policy_server.replay.sequences import DrawnSequences
from policy_server.stepwise import Steps, at_once
from policy_server.types import Batch, PolicySpaces, PolicyState
from sim_clients.protocol.spaces import Dict

ERROR_LIMIT = 1e15
"""What is further off is not learned from: an absurd state, which mixing weights multiply, makes
errors whose squares are not finite."""


class Mixed(nn.Module):
    """Agents and what mixes their utilities: all that learns.

    Attributes:
        agents: the network that acts.
    """

    def __init__(self, spaces: PolicySpaces, model: ModelConfig, config: QMIXTraining):
        super().__init__()
        group = GroupSpaces.of(spaces)
        self.agents = QMIX.make_network(spaces, model, config)
        self._segments = [(m.mask.start, m.mask.stop) for m in group.members]
        whole = spaces.observation
        assert isinstance(whole, Dict)
        stateful = group.state.stop > group.state.start
        first, last = group.members[0], group.members[-1]
        self._seen = group.state if stateful else slice(first.leaves.start, last.leaves.stop)
        state = PolicySpaces(whole.spaces["state" if stateful else "agents"], spaces.action)
        self.mixer: nn.Module = SumMixer()
        if config.mixer == "qmix":
            self.mixer = MonotonicMixer(state, model, len(group.members), config.mixer_width)

    def utilities(self, values: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """Of what each agent did: values `[L, n, W]` and choices int64 `[L, n, N]` -> `[L, n, N]`."""
        starts = torch.tensor([start for start, _ in self._segments], device=values.device)
        return values.gather(2, categories + starts)

    def best(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Each agent's best choice of those that are allowed, `[..., W]` -> int64 `[..., N]`; W of
        the mask is 0 where all are."""
        values = masked(values, mask)
        return torch.stack([values[..., a:b].argmax(-1) for a, b in self._segments], dim=-1)

    def together(self, utilities: torch.Tensor, obs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Q_tot: utilities `[L, n, N]` and whole observations `[L, n, ...]` -> `[L, n]`."""
        seen = [leaf.flatten(0, 1) for leaf in obs[self._seen]]
        mixed: torch.Tensor = self.mixer(utilities.flatten(0, 1), seen)
        return mixed.view(utilities.shape[:2])


def qmix_loss(
    online: Mixed,
    target: Mixed,
    drawn: DrawnSequences,
    weights: torch.Tensor,
    config: QMIXTraining,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """This page's objective, a weighted mean over all steps of n sequences; and the values of what
    was done and how wrong they were, `[L, n]`, 0 where there is no step.

    Shapes: sequences of L steps, weights `[n]`.
    """
    steps, n = drawn.rewards.shape
    assert weights.shape == drawn.lengths.shape == (n,)
    valid = torch.arange(steps, device=weights.device)[:, None] < drawn.lengths  # [L, n]
    obs = tuple(leaf[config.burn_in :] for leaf in drawn.obs)
    before = tuple(leaf[:-1] for leaf in obs)
    q = sequence_values(online.agents, drawn, config.burn_in)  # [L + 1, n, W]
    done = online.together(online.utilities(q[:-1], drawn.categories), before)  # [L, n]
    with torch.no_grad():
        behind = sequence_values(target.agents, drawn, config.burn_in)
        best = online.best(q if config.double else behind, drawn.mask[config.burn_in :])
        y = sequence_returns(
            drawn.rewards, target.together(target.utilities(behind, best), obs), drawn.lengths,
            drawn.terminated, gamma=config.gamma, n_step=config.n_step,
        )  # fmt: skip
    errors = torch.where(valid, done - y, 0.0).clamp(-ERROR_LIMIT, ERROR_LIMIT)
    loss = 0.5 * (weights * errors.square()).sum() / valid.sum()
    return loss, {"values": torch.where(valid, done.detach(), 0.0), "errors": errors.detach().abs()}


class QMIX:
    """A policy of several agents that learns by QMIX.

    Attributes:
        network: the agents' utilities; it acts.
        online: these and the mixing network.
        target: a slow copy of both.
    """

    Training = QMIXTraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: QMIXTraining
    ) -> GroupQNetwork:
        """Utilities of each agent's actions."""
        group = GroupSpaces.of(spaces)
        return GroupQNetwork(
            [PolicySpaces(one.observation, one.action) for one in group.members],
            [one.leaves for one in group.members],
            model,
            dueling=training.dueling,
            one_for_all=training.share_parameters and group.alike,
        )

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: QMIXTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device = config, device
        self.online = seeded(lambda: Mixed(spaces, model, config), seed, device)
        self.network = self.online.agents
        self.optimizer = FlatAdam(self.online, config.adam_eps)
        self.target = TargetNetwork(self.online, self.optimizer)
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
        check_finite("QMIX", batch, metrics, self.optimizer.weights)
        return metrics

    def _learn(self, drawn: Drawn[DrawnSequences]) -> None:
        """One gradient step."""
        c, sequences = self.config, drawn.steps
        loss, terms = qmix_loss(self.online, self.target.network, sequences, drawn.weights, c)
        norm = self.optimizer.minimize(loss, c.lr, c.grad_clip, c.grad_clip_by)
        errors, steps = terms["errors"], sequences.lengths.sum()
        self.replayed.surprised(drawn, errors.sum(0) / sequences.lengths)
        self.means.add(
            total_loss=loss, q_mean=terms["values"].sum() / steps,
            td_error_mean=errors.sum() / steps, grad_norm=norm,
        )  # fmt: skip

    def state(self) -> PolicyState:
        """All that `load` needs to go on from here, and exactly so with `save_replay`."""
        tensors = network_tensors(self.online, "online")
        tensors |= network_tensors(self.target.network, "target")
        replay_tensors, replay = self.replayed.state()
        return PolicyState(tensors | self.optimizer.state() | replay_tensors, {"replay": replay})

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        load_network(self.online, state, "online")
        load_network(self.target.network, state, "target")
        self.optimizer.load(state.tensors)
        self.replayed.load(state.tensors, state.data["replay"])
