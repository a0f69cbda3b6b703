"""Policy gradient: REINFORCE.

Maximises, in one step for each batch,

    E_t[ log pi(a_t | s_t) R_t + c_ent H(pi(s_t)) ]

where R_t is the discounted sum of the rewards from step t to the end of its episode: nothing is
bootstrapped, so nothing is learned from a step before its episode is over.

Source: Williams, Machine Learning 8 (1992), with R_t from t on instead of the whole episode's
return (Sutton et al., https://papers.nips.cc/paper/1713, equation 2). What can be set is in
`pg_options`. Where this page deviates:

- Returns may be normalised over the batch; their mean is a baseline then.
- Steps wait for the end of their episode (`episodes`), while the policy may be updated a few
  times; they are not corrected for that.
- A truncated episode counts as over: what would have come is taken for nothing.
"""

from __future__ import annotations

import torch

from policy_server.algorithms.episodes import EpisodeAssembler, Futures
from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.observations import ObservationRows
from policy_server.algorithms.ops.distributions import Distribution
from policy_server.algorithms.ops.losses import normalized
from policy_server.algorithms.ops.schedules import scheduled
from policy_server.algorithms.pg_options import PGTraining
from policy_server.algorithms.rewards import shaped
from policy_server.algorithms.sequences import SequenceTable
from policy_server.algorithms.trained import TrainedPolicy, seeded
from policy_server.config import ModelConfig
from policy_server.networks import PolicyNetwork, build_network
from policy_server.networks.snapshot import as_tensor
from policy_server.types import Batch, PolicySpaces, PolicyState


def pg_loss(
    new: Distribution,
    categories: torch.Tensor,
    reals: torch.Tensor,
    returns: torch.Tensor,
    entropy_coeff: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The negative of this page's objective, a mean over the steps; and its terms.

    Shapes: `new` of N steps, categories `[N, K]`, reals `[N, D]`, R_t `[N]` -> scalars.
    """
    assert returns.shape == (len(categories),)
    policy_loss = -(new.log_prob(categories, reals) * returns).mean()
    entropy = new.entropy().mean()
    return policy_loss - entropy_coeff * entropy, {"policy_loss": policy_loss, "entropy": entropy}


class PG:
    """A policy that learns by REINFORCE.

    Attributes:
        network: the policy; its value function stays as it is.
    """

    Training = PGTraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: PGTraining
    ) -> PolicyNetwork:
        """A policy."""
        return build_network(spaces, model)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: PGTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device = config, device
        self._rewards = (reward_scale, reward_clip)
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        self._trained = TrainedPolicy(self.network, spaces, device, config.adam_eps)
        self._episodes = EpisodeAssembler(config.gamma)

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """One gradient step on what this batch brought to an end, if anything.

        Raises:
            LearnerError: the numbers broke. The weights are spoilt: load the last state.
        """
        steps = self._episodes.add(batch, shaped(batch.rewards, *self._rewards))
        metrics = {} if steps is None else self._learn(steps, env_steps)
        metrics |= {
            "steps_learned": 0.0 if steps is None else float(len(steps.returns)),
            "steps_waiting": float(self._episodes.waiting),
            "steps_given_up": float(self._episodes.given_up),
        }
        check_finite("PG", batch, metrics, self._trained.optimizer.weights)
        return metrics

    def _learn(self, steps: Futures, env_steps: int) -> dict[str, float]:
        c = self.config
        lr = scheduled(c.lr_schedule, c.lr, env_steps)
        mask, categories, reals, returns = (
            as_tensor(column).to(self.device)
            for column in (steps.masks, steps.categories, steps.reals, steps.returns)
        )
        if c.normalize_returns:
            returns = normalized(returns)
        new = self._trained.distribution(self._heads(steps), mask, categories)
        loss, terms = pg_loss(new, categories, reals, returns, c.entropy_coeff)
        norm = self._trained.descend(loss, lr, c.grad_clip, c.grad_clip_by)
        terms |= {"total_loss": loss, "grad_norm": norm}
        return {name: value.item() for name, value in terms.items()} | {"lr": lr}

    def _heads(self, steps: Futures) -> torch.Tensor:
        """`[N, H]`; a memory goes through whole episodes."""
        obs = ObservationRows(steps.obs, self.device)
        network = self.network.train()
        if not network.state_size:
            return network.policy(obs[torch.arange(len(steps.returns), device=self.device)])
        lengths, state = as_tensor(steps.lengths), as_tensor(steps.state).to(self.device)
        episodes = SequenceTable(lengths.cumsum(0) - lengths, lengths, 1, state)
        heads: torch.Tensor = network(episodes.read(obs.__getitem__)[1])[0]
        return heads

    def state(self) -> PolicyState:
        """All that `load` needs to go on from here; steps whose episode is not over are given up."""
        lost = self._episodes.given_up + self._episodes.waiting
        return self._trained.state(given_up=lost)

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        self._trained.load(state)
        self._episodes = EpisodeAssembler(self.config.gamma)
        self._episodes.given_up = int(state.data.get("given_up", 0))
