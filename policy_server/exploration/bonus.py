"""Intrinsic rewards on top of a batch's own: the one place where the two meet."""

from __future__ import annotations

import dataclasses
from collections import deque

import numpy as np
import torch

from policy_server.algorithms.finite import check_finite
from policy_server.algorithms.rewards import shaped
from policy_server.config import ExplorationConfig, ModelConfig, PreprocessingConfig
from policy_server.errors import CheckpointError, LearnerError
from policy_server.exploration.explorer import Explorer
from policy_server.exploration.plugin import explorer_class, options_of
from policy_server.exploration.running import RunningDeviation, RunningSums
from policy_server.exploration.successions import Successions
from policy_server.stepwise import Steps
from policy_server.types import Batch, PolicySpaces, PolicyState

WINDOW = 100
"""Newest episodes over which the mean intrinsic return is taken."""
KEY = "bonus"
"""Where its share of a policy's state is; no page has one of that name."""


class Bonus:
    """Makes the intrinsic rewards of one policy, and lets the plug-in learn.

    A reward is divided by the running deviation of the discounted sums of rewards so far, as in
    Burda et al., https://arxiv.org/abs/1810.12894, section 2.4; but sums end with episodes, and the
    deviation is at least a tenth of their mean.

    Attributes:
        explorer: the plug-in.
    """

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        config: ExplorationConfig,
        preprocessing: PreprocessingConfig,
        *,
        seed: int,
        device: torch.device,
    ):
        """Raises:
        ConfigError: there is no such plug-in, or it has no such options.
        """
        self._config, self._preprocessing, self._device = config, preprocessing, device
        self.explorer: Explorer = explorer_class(config.name)(
            spaces, model, options_of(config), seed=seed, device=device
        )
        self._discounted, self._total = RunningSums(config.gamma), RunningSums(1.0)
        self._deviation = RunningDeviation()
        self._returns: deque[float] = deque(maxlen=WINDOW)

    def weight(self, env_steps: int) -> float:
        """weight (1 - decay)^n."""
        return self._config.weight * (1.0 - self._config.decay) ** env_steps

    def add(self, batch: Batch, env_steps: int) -> Steps[tuple[Batch, dict[str, float]]]:
        """The batch with rewards scaled, clipped, and intrinsic ones on top; and metrics. What is
        in it is less new from then on.

        Raises:
            LearnerError: the plug-in's numbers broke.
        """
        steps, p = Successions(batch, self._device), self._preprocessing
        novelty = self.explorer.reward(steps)
        if novelty.shape != steps.rows.shape:
            raise LearnerError(
                f"{self._config.name}: expected a reward for each of {len(steps.rows)} steps, got "
                f"shape {list(novelty.shape)}."
            )
        raw = steps.by_time(novelty)
        sums, _ = self._discounted.add(raw, batch)
        self._deviation.add(sums[batch.valid])
        weight, deviation = self.weight(env_steps), self._deviation.value
        intrinsic = raw * np.float32(weight / deviation)
        totals, whole = self._total.add(intrinsic, batch)
        over = batch.valid & (batch.terminated | batch.truncated) & whole
        self._returns.extend(totals[over].tolist())
        metrics = {
            "intrinsic_reward_mean": float(intrinsic[batch.valid].mean()),
            "intrinsic_weight": weight,
            "intrinsic_deviation": deviation,
        }
        if self._returns:
            metrics["intrinsic_return_mean"] = float(np.mean(self._returns))
        metrics |= yield from self.explorer.learn(steps)
        check_finite(self._config.name, batch, metrics, self.explorer.weights)
        rewards = shaped(batch.rewards, p.reward_scale, p.reward_clip) + intrinsic
        return dataclasses.replace(batch, rewards=rewards), metrics

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here, to be kept with the algorithm's."""
        own = self.explorer.state()
        data = {
            "name": self._config.name,
            "explorer": own.data,
            "discounted": self._discounted.state(),
            "total": self._total.state(),
            "deviation": self._deviation.state(),
            "returns": list(self._returns),
        }
        return PolicyState({f"{KEY}/{k}": v for k, v in own.tensors.items()}, {KEY: data})

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned; begins anew where a policy explored without a plug-in
        so far.

        Raises:
            CheckpointError: it is another plug-in's, or does not fit.
        """
        data = state.data.get(KEY)
        if data is None:
            return
        if data["name"] != self._config.name:
            raise CheckpointError(
                f"exploration.name: expected {data['name']!r}, whose state is stored, got "
                f"{self._config.name!r}: set the same, or start without the checkpoint."
            )
        prefix = f"{KEY}/"
        mine = {k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)}
        self.explorer.load(PolicyState(mine, data["explorer"]))
        self._discounted.load(data["discounted"])
        self._total.load(data["total"])
        self._deviation.load(data["deviation"])
        self._returns = deque(data["returns"], maxlen=WINDOW)
