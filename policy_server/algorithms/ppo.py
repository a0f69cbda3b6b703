"""Proximal Policy Optimisation with clipped ratios and an adaptive KL penalty.

Maximises, over several epochs of shuffled minibatches of the same steps,

    E_t[ min(r_t A_t, clip(r_t, 1 - eps, 1 + eps) A_t)       equation 7
         - c_kl KL(pi_old(s_t) || pi(s_t))                   equation 8
         - c_vf (V(s_t) - R_t)^2 + c_ent H(pi(s_t)) ]        equation 9

with r_t = pi(a_t | s_t) / pi_old(a_t | s_t), advantages A_t and returns R_t from generalised
advantage estimation (`ops.gae`), computed once with the weights of before the update. After it
c_kl becomes 1.5 c_kl where the mean KL was above twice `kl_target`, and c_kl / 2 where it was below
half.

Source: Schulman et al., https://arxiv.org/abs/1707.06347. What can be set is in `ppo_options`.
Where this page deviates:

- Clipping and KL penalty work together; the paper compares them as alternatives, and adapts c_kl by
  factors of 2 outside of 1.5 times and 1 / 1.5 of the target.
- pi_old in r_t is the policy that acted (its log-probability came with the step); in the KL it
  is the policy as it stands before the update. The two are the same unless steps are older.
- The squared error of the value function is cut off at `vf_clip_param`.
- Advantages are normalised over the whole batch, once.
- Minibatches are as equal in size as can be (they differ by one step), so that each step counts
  once per epoch and no small remainder makes a noisy step.
- Steps that were truncated bootstrap from their true final observation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.observations import ObservationRows
from policy_server.algorithms.ops.distributions import Distribution
from policy_server.algorithms.ops.gae import explained_variance
from policy_server.algorithms.ops.heads import make_heads
from policy_server.algorithms.ops.losses import (
    adapted_kl_coeff,
    clipped_squared_error,
    clipped_surrogate,
    normalized,
)
from policy_server.algorithms.ops.schedules import scheduled
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.ppo_options import PPOTraining
from policy_server.algorithms.recorded_steps import Number, Rates, RecordedSteps
from policy_server.algorithms.saved import (
    generator_text,
    load_generator,
    load_network,
    network_tensors,
)
from policy_server.algorithms.trained import seeded
from policy_server.algorithms.trajectories import Inputs, Outlook, Trajectories
from policy_server.config import ModelConfig
from policy_server.networks import PolicyNetwork, build_network
from policy_server.stepwise import Steps, at_once
from policy_server.types import ActionLayout, Batch, PolicySpaces, PolicyState

__all__ = ["PPO", "Minibatch", "PPOTraining", "Terms", "ppo_loss"]


class Minibatch(NamedTuple):
    """Steps to learn from, in any order."""

    categories: torch.Tensor  # int64 [N, K]
    reals: torch.Tensor  # [N, D]
    logp: torch.Tensor  # [N], of the policy that acted
    advantages: torch.Tensor  # [N]
    returns: torch.Tensor  # [N]
    old: Distribution  # of the policy before the update
    weight: torch.Tensor | None = None  # [N], adds up to 1; None: all count the same

    def mean(self, each: torch.Tensor) -> torch.Tensor:
        """Over the steps. `[N]` -> scalar."""
        return each.mean() if self.weight is None else (each * self.weight).sum()


class Terms(NamedTuple):
    """What the loss is made of, step by step, each `[N]`."""

    surrogate: torch.Tensor
    vf_error: torch.Tensor
    ratio: torch.Tensor


def ppo_loss(
    new: Distribution,
    values: torch.Tensor,
    mb: Minibatch,
    config: PPOTraining,
    *,
    entropy_coeff: Number,
    kl_coeff: Number,
) -> tuple[torch.Tensor, Terms]:
    """The negative of this page's objective, a mean over the minibatch; and its terms. A
    coefficient that is a tensor takes part even where it is 0.

    Shapes: `new` of N steps, values `[N]` -> scalar.
    """
    assert values.shape == mb.logp.shape == mb.advantages.shape == mb.returns.shape
    ratio = torch.exp(new.log_prob(mb.categories, mb.reals) - mb.logp)
    surrogate = clipped_surrogate(ratio, mb.advantages, config.clip_param)
    vf_error = clipped_squared_error(values, mb.returns, config.vf_clip_param)
    assert surrogate.shape == vf_error.shape == values.shape
    loss = config.vf_loss_coeff * vf_error - surrogate
    if isinstance(kl_coeff, torch.Tensor) or kl_coeff:
        loss = loss + kl_coeff * mb.old.kl(new)
    if isinstance(entropy_coeff, torch.Tensor) or entropy_coeff:
        loss = loss - entropy_coeff * new.entropy()
    assert loss.shape == values.shape
    return mb.mean(loss), Terms(surrogate, vf_error, ratio)


class PPO:
    """A policy that learns by PPO.

    Attributes:
        network: the policy's `networks.PolicyNetwork`.
        kl_coeff: c_kl as it stands; 0 without the penalty.
        records: gradient steps are recorded once and replayed.
    """

    Training = PPOTraining

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: PPOTraining
    ) -> PolicyNetwork:
        """A policy and a value function."""
        return build_network(spaces, model)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: PPOTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config = config
        self.device = device
        self.reward_scale, self.reward_clip = reward_scale, reward_clip
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        self.heads = make_heads(self.network, ActionLayout(spaces.action), device)
        self.optimizer = FlatAdam(self.network, config.adam_eps)
        self.generator = torch.Generator().manual_seed(seed)
        self.kl_coeff = config.kl_coeff if config.use_kl_loss else 0.0
        # A network of the user's own may decide in Python what it does with a minibatch, and
        # sequences have no fixed length.
        ours = model.custom is None and model.distribution is None
        self.records = device.type == "cuda" and ours and model.memory == "none"
        self._recorded: RecordedSteps | None = None

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """Learns from one batch; `env_steps` (in all so far) is where schedules stand.

        Raises:
            LearnerError: the numbers broke. The weights are spoilt: load the last state.
        """
        return at_once(self.update_in_steps(batch, env_steps))

    def update_in_steps(self, batch: Batch, env_steps: int) -> Steps[dict[str, float]]:
        """The same with a pause after each minibatch. Any thread may take any step."""
        c = self.config
        lr = scheduled(c.lr_schedule, c.lr, env_steps)
        entropy_coeff = scheduled(c.entropy_coeff_schedule, c.entropy_coeff, env_steps)
        steps, outlook, b_columns, metrics = self._prepare(batch)
        yield

        reports: list[torch.Tensor] = []
        self.network.train()
        step = self._step_on(steps.obs, b_columns, Rates(lr, entropy_coeff, self.kl_coeff))
        for epoch in range(c.num_epochs):
            report = epoch == c.num_epochs - 1
            for asked, mb_columns in self._minibatches(steps, outlook, b_columns):
                numbers = step(asked, mb_columns, report)
                if report:
                    reports.append(numbers.clone())  # the next step may write over them
                yield

        metrics |= dict(zip(_REPORT, torch.stack(reports).mean(0).tolist(), strict=True))
        metrics |= {"lr": lr, "entropy_coeff": entropy_coeff, "kl_coeff": self.kl_coeff}
        check_finite("PPO", batch, metrics, self.optimizer.weights)
        self.kl_coeff = adapted_kl_coeff(self.kl_coeff, metrics["kl"], c.kl_target)
        return metrics

    def _minibatches(
        self, steps: Trajectories, outlook: Outlook, columns: list[torch.Tensor]
    ) -> Iterator[tuple[Any, Sequence[torch.Tensor]]]:
        """All steps once, shuffled: rows of observations (or sequences) and the other columns."""
        if outlook.sequences is not None:
            size = self.config.minibatch_size
            for chosen, asked in steps.minibatches(outlook, size, self.generator):
                yield asked, [column.index_select(0, chosen) for column in columns[1:]]
            return
        order = torch.randperm(len(columns[0]), generator=self.generator).to(self.device)
        shuffled = [column.index_select(0, order) for column in columns]
        parts = math.ceil(len(order) / self.config.minibatch_size)
        for rows, *rest in zip(*(c.tensor_split(parts) for c in shuffled), strict=True):
            yield rows, rest

    def _step_on(
        self, obs: ObservationRows, columns: list[torch.Tensor], rates: Rates
    ) -> Callable[[Any, Sequence[torch.Tensor], bool], torch.Tensor]:
        """A function that makes one gradient step with a minibatch of this update."""
        if self.network.state_size:
            return lambda asked, mb, report: self._learn(asked, mb, None, rates, report)
        if not self.records:
            return lambda rows, mb, report: self._learn(obs[rows], mb, None, rates, report)
        c, rows, rest = self.config, columns[0], columns[1:]
        if self._recorded is None:
            used = (
                True,
                c.entropy_coeff > 0 or c.entropy_coeff_schedule is not None,
                c.use_kl_loss,
            )
            self._recorded = RecordedSteps(
                self._learn, c.minibatch_size, self.optimizer.changes, used, obs, rows, rest
            )
        self._recorded.begin(obs, rows, rest, rates)
        return functools.partial(self._recorded, obs)

    def _learn(
        self,
        obs: Inputs,
        columns: Sequence[torch.Tensor],
        weight: torch.Tensor | None,
        rates: Rates,
        report: bool,
    ) -> torch.Tensor:
        """One gradient step; the report, if there is to be one."""
        c = self.config
        mask, old, categories, reals, logp, advantages, returns = columns
        old_policy = self.heads.unpack(old)
        mb = Minibatch(categories, reals, logp, advantages, returns, old_policy, weight)
        head, values = self.network(obs)
        new = self.heads.distribution(self.network, head, mask, categories)
        loss, terms = ppo_loss(
            new, values, mb, c, entropy_coeff=rates.entropy_coeff, kl_coeff=rates.kl_coeff
        )
        self.optimizer.backward(loss)
        numbers = self._report(loss, terms, new, mb) if report else loss
        if c.grad_clip is not None:
            self.optimizer.clip(c.grad_clip, c.grad_clip_by)
        self.optimizer.step(rates.lr)
        return numbers.detach()

    def _prepare(
        self, batch: Batch
    ) -> tuple[Trajectories, Outlook, list[torch.Tensor], dict[str, float]]:
        """Everything that stays the same during the update, one row per valid step."""
        c = self.config
        steps = Trajectories(batch, self.device, self.reward_scale, self.reward_clip)
        outlook = steps.outlook(self.network.eval())
        b_advantages, b_returns = steps.advantages(outlook, c.gamma, c.lambda_)
        with torch.no_grad():
            old = self.heads.distribution(self.network, outlook.heads, steps.mask, steps.categories)
            ratio = old.log_prob(steps.categories, steps.reals) - steps.logp
            values = steps.by_step(outlook.values[:-1])
            metrics = {
                "vf_explained_var": explained_variance(values, b_returns).item(),
                "first_ratio_error": ratio.expm1().abs().max().item(),
            }
            if c.normalize_advantages:
                b_advantages = normalized(b_advantages)
            packed = self.heads.pack(old)
        columns = [
            steps.rows, steps.mask, packed, steps.categories, steps.reals, steps.logp,
            b_advantages, b_returns,
        ]  # fmt: skip
        return steps, outlook, columns, metrics

    def _report(
        self, loss: torch.Tensor, terms: Terms, new: Distribution, mb: Minibatch
    ) -> torch.Tensor:
        """What one minibatch adds to the metrics; order as in `_REPORT`."""
        c = self.config
        with torch.no_grad():
            limit = math.inf if c.vf_clip_param is None else c.vf_clip_param
            numbers = [
                loss,
                -mb.mean(terms.surrogate),
                mb.mean(terms.vf_error),
                mb.mean(new.entropy()),
                mb.mean(mb.old.kl(new)),
                mb.mean(((terms.ratio - 1).abs() > c.clip_param).float()),
                mb.mean((terms.vf_error >= limit).float()),
                self.optimizer.gradient_norm(),
            ]
            return torch.stack(numbers)

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here (random numbers that a custom
        network draws for itself excepted)."""
        tensors = network_tensors(self.network) | self.optimizer.state()
        generator = generator_text(self.generator)
        return PolicyState(tensors, {"kl_coeff": self.kl_coeff, "generator": generator})

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned.

        Raises:
            CheckpointError: it belongs to another network.
        """
        load_network(self.network, state)
        self.optimizer.load(state.tensors)
        if self.config.use_kl_loss:  # what was stored without a penalty is 0, and cannot adapt
            self.kl_coeff = float(state.data["kl_coeff"]) or self.config.kl_coeff
        load_generator(self.generator, state.data["generator"])


_REPORT = (
    "total_loss", "policy_loss", "vf_loss", "entropy", "kl", "clip_fraction", "vf_clip_fraction",
    "grad_norm",
)  # fmt: skip
"""Metrics that are means over the minibatches of the last epoch."""
