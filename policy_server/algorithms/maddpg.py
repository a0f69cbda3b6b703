"""Multi-agent deep deterministic policy gradient: actors see their own, critics see all.

N agents learn together from steps drawn from a replay buffer. With x what all of them see and a_j
what agent j did, critic i learns

    y_i = R_i + gamma^n Q'_i(x', a'_1, ..., a'_N),    a'_j = mu'_j(o'_j),
    minimise E[ w (Q_i(x, a_1, ..., a_N) - y_i)^2 ],

with the n-step return R_i of the agent's own rewards (or of the rewards they share) and slow copies
Q', mu' of critics and actors; w are the importance weights of prioritised replay. Actor i, which sees
o_i alone, minimises

    -E[ Q_i(x, a_1, ..., a_i = mu_i(o_i), ..., a_N) ]    (choices: + c E[ mean of logits^2 ]),

the others' actions being those that were replayed. Reals are in -1..1; choices are one-hot vectors
that are drawn by Gumbel noise, which gradients go back through as if they were soft, in y_i from the
slow copies, too.

Source: Lowe et al., https://arxiv.org/abs/1706.02275, equations 5 and 6 and algorithm 1; choices: its
section 5, and Jang et al., https://arxiv.org/abs/1611.01144. What can be set is in `maddpg_options`.
Where this page deviates:

- All critics step together, then all actors, as one vector each: with agents that do not share
  parameters that is the same as one after the other, apart from the limit of the gradient's norm.
- Drawn choices are hard in the forward pass. The authors' code keeps soft ones in its replay buffer;
  simulators are told one option, and that is what is replayed.
- Policies of others are known, not inferred (section 4.2), and there are no ensembles (4.3).
- With masks the last step of a truncated episode is not learned from: simulators do not tell which
  actions were allowed behind it.
"""

from __future__ import annotations

import torch

from policy_server.algorithms.central import Central
from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.maddpg_options import MADDPGTraining
from policy_server.algorithms.means import Means
from policy_server.algorithms.ops.gumbel import gumbel, one_hot, straight_through
from policy_server.algorithms.ops.masking import masked
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.replayed import Drawn, replayed_steps
from policy_server.algorithms.saved import (
    generator_text,
    load_generator,
    load_tensors,
    tensors_of,
)
from policy_server.algorithms.target_network import TargetNetwork
from policy_server.algorithms.trained import frozen, seeded
from policy_server.config import ModelConfig
from policy_server.networks.central import CentralCritics
from policy_server.networks.policy import Observations
from policy_server.networks.side_by_side import SideBySide
from policy_server.replay.steps import Transitions
from policy_server.stepwise import Steps, at_once
from policy_server.types import ActionLayout, Batch, PolicySpaces, PolicyState


def maddpg_target(
    critics: CentralCritics, next_obs: Observations, next_actions: torch.Tensor, steps: Transitions
) -> torch.Tensor:
    """y, `[n, N]`, from slow copies of the critics; next_actions `[n, D]`: those of all slow actors."""
    behind = critics(next_obs, next_actions)  # [n, N]
    assert steps.rewards.shape in (behind.shape, (len(behind), 1)), steps.rewards.shape
    return steps.rewards + steps.discounts[:, None] * behind


def critic_loss(
    q: torch.Tensor, y: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The critics' objective, and how wrong they are on average, `[n]`.

    Shapes: q and y `[n, N]`, weights `[n]`.
    """
    assert q.shape == y.shape == (len(weights), q.shape[1]), (q.shape, y.shape, weights.shape)
    errors = q - y
    return (weights[:, None] * errors.square()).mean(0).sum(), errors.detach().abs().mean(1)


def actor_loss(
    critics: CentralCritics,
    obs: Observations,
    own: torch.Tensor,
    replayed: torch.Tensor,
    mine: torch.Tensor,
) -> torch.Tensor:
    """Minus what each agent's critic thinks of what its actor would do where the others do as they
    did; summed over agents.

    Shapes: own, what all actors would do, and replayed `[n, D]`; mine bool `[N, D]`, the columns of
    each agent.
    """
    assert own.shape == replayed.shape == (len(own), mine.shape[1])
    actions = torch.where(mine[:, None, :], own, replayed)  # [N, n, D]
    return -critics.each_its_own(obs, actions).mean(0).sum()


class MADDPG:
    """A policy of several agents that learns by MADDPG.

    Attributes:
        network: the actors, side by side.
        critics: what sees all.
        target_actors, target_critics: slow copies of both.
    """

    Training = MADDPGTraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: MADDPGTraining
    ) -> SideBySide:
        """The actors: actions in -1..1, or logits."""
        shared = training.share_parameters
        shares = Central(spaces).shares("MADDPG", shared)
        squash = ActionLayout(spaces.action).reals > 0
        return SideBySide(shares, model, squash=squash, one_for_all=shared)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: MADDPGTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device = config, device
        self._central = central = Central(spaces)
        layout = ActionLayout(spaces.action)
        self._nvec = layout.nvec.tolist()
        actions = layout.mask_width + layout.reals  # one of the two is 0
        self._mine = torch.zeros(central.agents, actions, dtype=torch.bool, device=device)
        for mine, columns in zip(self._mine, central.columns(layout), strict=True):
            mine[columns] = True
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        self.critics = seeded(
            lambda: CentralCritics(
                central.agents, central.spaces, model, actions, config.share_parameters
            ),
            seed + 1,
            device,
        )
        self.optimizer = FlatAdam(self.network, config.adam_eps)
        self._critics_optimizer = FlatAdam(self.critics, config.adam_eps)
        self.target_actors = TargetNetwork(self.network, self.optimizer)
        self.target_critics = TargetNetwork(self.critics, self._critics_optimizer)
        self._networks = {
            "network": self.network, "critics": self.critics,
            "target_actors": self.target_actors.network,
            "target_critics": self.target_critics.network,
        }  # fmt: skip
        self._optimizers = {"adam": self.optimizer, "critics_adam": self._critics_optimizer}
        self.replayed = replayed_steps(config, device, seed, reward_scale, reward_clip)
        self.means = Means()
        self.generator = torch.Generator().manual_seed(seed)

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """Takes a batch in, and makes the gradient steps that are due.

        Raises:
            LearnerError: the numbers broke. The weights are spoilt: load the last state.
        """
        return at_once(self.update_in_steps(batch, env_steps))

    def update_in_steps(self, batch: Batch, env_steps: int) -> Steps[dict[str, float]]:
        """The same with a pause after each gradient step. Any thread may take any step."""
        for drawn in self.replayed.due(batch, rewards=self._central.rewards(batch)):
            self._learn(drawn)
            yield
        metrics = self.means.take() | self.replayed.metrics
        weights = self.optimizer.weights, self._critics_optimizer.weights
        check_finite("MADDPG", batch, metrics, torch.cat(weights))
        return metrics

    def _learn(self, drawn: Drawn[Transitions]) -> None:
        """One gradient step of everything."""
        c, steps = self.config, drawn.steps
        seen, next_seen = map(self._central.view, (steps.obs, steps.next_obs))
        replayed = one_hot(steps.categories, self._nvec) if self._nvec else steps.reals
        with torch.no_grad():
            heads = self.target_actors.network.policy(steps.next_obs)
            next_actions = self._actions(heads, steps.next_mask)
            y = maddpg_target(self.target_critics.network, next_seen, next_actions, steps)
        loss, errors = critic_loss(self.critics(seen, replayed), y, drawn.weights)
        self._critics_optimizer.minimize(loss, c.critics_lr, c.grad_clip, c.grad_clip_by)
        self.replayed.surprised(drawn, errors)
        self.means.add(critic_loss=loss, td_error_mean=errors.mean(), q_mean=y.mean())
        with frozen(self.critics):
            heads = self.network.policy(steps.obs)
            own = self._actions(heads, steps.mask)
            loss = actor_loss(self.critics, seen, own, replayed, self._mine)
            if self._nvec:
                loss = loss + c.logit_decay * heads.square().mean()
            self.optimizer.minimize(loss, c.lr, c.grad_clip, c.grad_clip_by)
        self.means.add(actor_loss=loss)
        if drawn.target_is_due:
            self.target_actors.follow(c.tau)
            self.target_critics.follow(c.tau)

    def _actions(self, heads: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What actors with these heads would do, as critics read it. `[n, H]` -> `[n, D]`"""
        if not self._nvec:
            return heads
        allowed = masked(heads, mask)
        noise = gumbel(heads, self.generator)
        return straight_through(allowed, noise, self.config.temperature, self._nvec)

    def state(self) -> PolicyState:
        """All that `load` needs to go on from here, and exactly so with `save_replay`."""
        replay_tensors, replay = self.replayed.state()
        return PolicyState(
            tensors_of(self._networks, self._optimizers) | replay_tensors,
            {"generator": generator_text(self.generator), "replay": replay},
        )

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        load_tensors(state, self._networks, self._optimizers)
        self.replayed.load(state.tensors, state.data["replay"])
        load_generator(self.generator, state.data["generator"])
