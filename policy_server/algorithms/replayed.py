"""The replay of one policy: what is kept, what is drawn, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from policy_server.algorithms.replay_options import ReplayTraining
from policy_server.algorithms.rewards import shaped
from policy_server.replay.draws import PrioritizedDraws, UniformDraws
from policy_server.replay.rate_limiter import RateLimiter
from policy_server.replay.steps import StepBuffer, Transitions
from policy_server.types import Batch


class Drawn(NamedTuple):
    """Steps to learn from.

    Attributes:
        places: int64[n], where they lie.
        weights: `[n]`, importance weights.
        target_is_due: the target network is to move with this gradient step.
    """

    places: np.ndarray
    steps: Transitions
    weights: torch.Tensor
    target_is_due: bool


class Replayed:
    """Keeps what comes, draws what is due.

    Attributes:
        buffer: all of it.
    """

    def __init__(
        self,
        config: ReplayTraining,
        device: torch.device,
        seed: int,
        reward_scale: float,
        reward_clip: float | None,
    ):
        self._config, self._device = config, device
        self._rewards = (reward_scale, reward_clip)
        self._rng = np.random.default_rng(seed)
        self._limiter = RateLimiter(
            config.samples_per_insert,
            config.learning_starts,
            config.train_batch_size,
            config.max_gradient_steps,
        )
        self._target_at = 0  # inserted steps when the target network moved last
        self._begin()

    def _begin(self) -> None:
        """With nothing in it."""
        c = self._config
        home = self._device if c.replay_on_gpu else torch.device("cpu")
        self.buffer = StepBuffer(c.buffer_size, home)
        self._draws: UniformDraws | PrioritizedDraws = UniformDraws(self.buffer, self._rng)
        if c.prioritized:
            self._draws = PrioritizedDraws(
                self.buffer, self._rng, c.prioritized_alpha, c.prioritized_beta, c.prioritized_eps
            )

    def due(self, batch: Batch) -> Iterator[Drawn]:
        """Takes a batch in; then draws for each gradient step that is due."""
        gone, new = self.buffer.insert(batch, shaped(batch.rewards, *self._rewards))
        self._draws.moved(gone, new)
        for _ in range(self._limiter.insert(len(new))):
            yield self._draw()

    def _target_is_due(self) -> bool:
        """Asked once per gradient step."""
        c = self._config
        if c.target_update_steps == 1:
            return True
        due = self._limiter.inserted - self._target_at >= c.target_update_steps
        if due:
            self._target_at = self._limiter.inserted
        return due

    def _draw(self) -> Drawn:
        c = self._config
        places, weights = self._draws.draw(c.train_batch_size)
        steps = self.buffer.transitions(places, c.n_step, c.gamma)
        if self.buffer.device != self._device:
            steps = steps.to(self._device)
        weights_there = torch.from_numpy(weights).to(self._device)
        return Drawn(places, steps, weights_there, self._target_is_due())

    def surprised(self, drawn: Drawn, errors: torch.Tensor) -> None:
        """How wrong the learner was about each of them, `[n]`."""
        if isinstance(self._draws, PrioritizedDraws):
            numbers = errors.cpu().numpy()
            if np.isfinite(numbers).all():  # else the update ends in an error
                self._draws.surprised(drawn.places, numbers)

    @property
    def metrics(self) -> dict[str, float]:
        """For the operator."""
        return {"replay_steps": float(self.buffer.steps), **self._limiter.metrics}

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Tensors and JSON. Without `save_replay` the buffer is not in it."""
        data: dict[str, Any] = {
            "rng": self._rng.bit_generator.state,
            "limiter": self._limiter.state(),
            "target_at": self._target_at,
        }
        if not self._config.save_replay:
            return {}, data
        tensors, data["buffer"] = self.buffer.state()
        if isinstance(self._draws, PrioritizedDraws):
            more, data["draws"] = self._draws.state()
            tensors |= more
        return {f"replay.{name}": tensor for name, tensor in tensors.items()}, data

    def load(self, tensors: dict[str, np.ndarray], data: dict[str, Any]) -> None:
        """Goes on from what `state` returned; where the buffer is not in it, it is filled up to
        `learning_starts` again before anything is drawn.

        Raises:
            CheckpointError: the stored buffer does not fit.
        """
        self._begin()
        self._rng.bit_generator.state = data["rng"]
        self._limiter.load(data["limiter"])
        self._target_at = int(data["target_at"])
        if "buffer" not in data:
            self._limiter.start_over()
            self._target_at = 0
            return
        prefix = "replay."
        mine = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        self.buffer.load(mine, data["buffer"])
        if isinstance(self._draws, PrioritizedDraws) and "draws" in data:
            self._draws.load(mine, data["draws"])
