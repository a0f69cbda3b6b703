"""An algorithm of which only the loss is somebody's own.

Minimises, in `num_epochs` passes over each batch, whatever this function says:

    def loss(policy, model, distribution, train_batch):
        logits, values = model(train_batch)
        logp = distribution(logits).log_prob(train_batch["actions"])
        return -(logp * train_batch["advantages"]).mean()

- `policy`: this page. `policy.config` holds the options, `policy.kwargs` those of the loss,
  `policy.env_steps` the environment steps so far.
- `model(train_batch)`: logits `[N, H]` and values `[N]` of its steps, with gradients.
- `distribution(logits)`: `train_batch.Distribution`, which knows the batch's action masks.
- `train_batch`: `train_batch.TrainBatch`, the columns of RLlib's SampleBatch.

It returns a scalar, or a scalar and a dictionary of further scalars to report.

What can be set is in `own_loss_options`. Everything around the loss is A2C's (`a2c`): advantages and
value targets by generalised advantage estimation with the value function as it stands before the
update, Adam, memory. Whether the value function learns is the loss's own business.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.ops.losses import normalized
from policy_server.algorithms.own_loss_options import OwnLossTraining
from policy_server.algorithms.saved import generator_text, load_generator
from policy_server.algorithms.train_batch import Distribution, TrainBatch, packed
from policy_server.algorithms.trained import TrainedPolicy, seeded
from policy_server.algorithms.trajectories import Outlook, Trajectories
from policy_server.config import ModelConfig
from policy_server.errors import LearnerError
from policy_server.named import line
from policy_server.networks import PolicyNetwork, build_network
from policy_server.networks.snapshot import as_tensor
from policy_server.types import ActionLayout, Batch, PolicySpaces, PolicyState

Model = Callable[[TrainBatch], tuple[torch.Tensor, torch.Tensor]]
Loss = Callable[["OwnLoss", Model, Callable[[torch.Tensor], Distribution], TrainBatch], Any]


class OwnLoss:
    """A policy that learns by a function of a batch.

    Attributes:
        loss: the function; a class derived from this one has it.
        network: the policy and its value function.
        config: the options.
        kwargs: `training.loss_kwargs`.
        env_steps: environment steps so far.
    """

    Training: ClassVar[type[OwnLossTraining]] = OwnLossTraining
    loss: ClassVar[Loss]

    @staticmethod
    def make_network(
        spaces: PolicySpaces, model: ModelConfig, training: OwnLossTraining
    ) -> PolicyNetwork:
        """A policy and a value function."""
        return build_network(spaces, model)

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: OwnLossTraining,
        *,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.config, self.device, self.kwargs = config, device, dict(config.loss_kwargs)
        self.env_steps = 0
        self._rewards = (reward_scale, reward_clip)
        self.network = seeded(lambda: self.make_network(spaces, model, config), seed, device)
        self._reals = ActionLayout(spaces.action).reals
        self._trained = TrainedPolicy(self.network, spaces, device, config.adam_eps)
        self._generator = torch.Generator().manual_seed(seed)

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        """Learns from one batch.

        Raises:
            LearnerError: the loss failed, or the numbers broke. In the latter case the weights are
                spoilt: load the last state.
        """
        c, self.env_steps = self.config, env_steps
        steps = Trajectories(batch, self.device, *self._rewards)
        outlook = steps.outlook(self.network.eval())
        columns = self._columns(batch, steps, outlook)
        self.network.train()
        reports: list[dict[str, torch.Tensor]] = []
        for _ in range(c.num_epochs):
            size = c.minibatch_size or batch.steps
            for chosen, asked in steps.minibatches(outlook, size, self._generator):
                some = {name: _rows(column, chosen) for name, column in columns.items()}
                train_batch = TrainBatch(some, asked)
                masked = steps.mask[chosen], steps.categories[chosen]
                loss, report = self._evaluated(train_batch, outlook.heads.shape[1], *masked)
                norm = self._trained.descend(loss, c.lr, c.grad_clip, c.grad_clip_by)
                reports.append(report | {"total_loss": loss, "grad_norm": norm})
        metrics = {
            name: torch.stack([one[name].detach() for one in reports if name in one]).mean().item()
            for name in dict.fromkeys(itertools.chain(*reports))
        }
        check_finite(type(self).__name__, batch, metrics, self._trained.optimizer.weights)
        return metrics

    def _columns(self, batch: Batch, steps: Trajectories, outlook: Outlook) -> dict[str, Any]:
        """Of all valid steps."""
        c = self.config
        advantages, returns = steps.advantages(outlook, c.gamma, c.lambda_)
        t, lanes = batch.rewards.shape
        behind = steps.rows + lanes
        over = steps.by_step(steps.terminated)
        next_obs = steps.obs[torch.where(over, steps.rows, behind)]
        finals = as_tensor(batch.final_index)
        at = steps.by_time(torch.arange(len(steps.rows)))[finals[:, 0], finals[:, 1]]
        next_obs = tuple(
            leaf.index_copy(0, at.to(self.device), as_tensor(final).to(self.device))
            for leaf, final in zip(next_obs, batch.final_obs, strict=True)
        )
        numbers = {
            "eps_id": batch.episodes, "agent_id": batch.lanes[None].repeat(t, 0), "t": batch.t,
        }  # fmt: skip
        columns = {
            "obs": _single(steps.obs[steps.rows]),
            "next_obs": _single(next_obs),
            "actions": packed(steps.categories, steps.reals),
            "rewards": steps.by_step(steps.rewards),
            "terminateds": over,
            "truncateds": steps.by_step(steps.truncated),
            "action_logp": steps.logp,
            "vf_preds": steps.by_step(outlook.values[:-1]),
            "advantages": normalized(advantages) if c.normalize_advantages else advantages,
            "value_targets": returns,
            **{name: steps.by_step(as_tensor(column)) for name, column in numbers.items()},
        }
        return columns | ({"action_mask": steps.mask} if steps.mask.shape[1] else {})

    def _evaluated(
        self, batch: TrainBatch, width: int, mask: torch.Tensor, categories: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss and what else it reports; logits have this width."""
        name, page, n = type(self).__name__, type(self), len(batch["rewards"])

        def distribution(logits: torch.Tensor) -> Distribution:
            if logits.shape != (n, width):
                raise ValueError(
                    f"expected logits {[n, width]}, the first of the two that model(train_batch) "
                    f"returns, got {list(logits.shape)}"
                )
            return Distribution(self._trained.distribution(logits, mask, categories), self._reals)

        try:
            said = page.loss(self, lambda some: self.network(some.asked), distribution, batch)
        except Exception as error:
            raise LearnerError(
                f"loss {name}: failed with {type(error).__name__}: {error}"
                f"{line(error)}. It was given {n} steps with the columns "
                f"{', '.join(batch)}."
            ) from error
        loss, report = said if isinstance(said, tuple) and len(said) == 2 else (said, {})
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise LearnerError(
                f"loss {name}: expected a tensor of one number, alone or in a pair with a dictionary "
                f"of what to report, got {_shown(loss)}."
            )
        if not loss.requires_grad:
            raise LearnerError(
                f"loss {name}: expected a loss that depends on the network, got one without a "
                "gradient: compute it from what model(train_batch) returns."
            )
        if not math.isfinite(loss.item()):
            raise LearnerError(
                f"loss {name}: expected a finite number, got {loss.item()}: it divides by zero, takes "
                "a logarithm of zero or overflows, or lr is too large."
            )
        try:
            numbers = {key: torch.as_tensor(value).float() for key, value in report.items()}
        except Exception as error:
            raise LearnerError(
                f"loss {name}: expected numbers to report, by their names, got {report!r:.80}: {error}."
            ) from error
        for key, value in numbers.items():
            if value.numel() != 1:
                raise LearnerError(
                    f"loss {name}: expected one number to report as {key!r}, got {_shown(value)}."
                )
        numbers = {key: value.reshape(()) for key, value in numbers.items()}
        return loss.reshape(()), numbers

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here."""
        return self._trained.state(generator=generator_text(self._generator))

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        self._trained.load(state)
        load_generator(self._generator, state.data["generator"])


@functools.cache
def page_of(loss: Loss, training: type[OwnLossTraining] = OwnLossTraining) -> type[OwnLoss]:
    """The algorithm whose loss this function is; other processes find it by the function's name."""
    return type(
        getattr(loss, "__name__", "loss"),
        (OwnLoss,),
        {
            "loss": staticmethod(loss),
            "Training": training,
            "__module__": loss.__module__,
            "__qualname__": getattr(loss, "__qualname__", "loss"),
            "__doc__": loss.__doc__,
        },
    )


def _shown(value: Any) -> str:
    """What came in place of one number, and what may be missing."""
    if value is None:
        return "None: does it return its loss?"
    if isinstance(value, torch.Tensor):
        return f"{list(value.shape)}: end it with .mean()"
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__


def _single(leaves: tuple[torch.Tensor, ...]) -> Any:
    return leaves[0] if len(leaves) == 1 else leaves


def _rows(column: Any, chosen: torch.Tensor) -> Any:
    if isinstance(column, tuple):
        return tuple(part.index_select(0, chosen) for part in column)
    return column.index_select(0, chosen)
