"""The replay of one policy: what is kept, what is drawn, and how often."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch

from policy_server.algorithms.observations import ObservationRows
from policy_server.algorithms.replay_options import ReplayTraining
from policy_server.algorithms.rewards import shaped
from policy_server.algorithms.sequence_options import SequenceTraining
from policy_server.algorithms.sequences import states_before
from policy_server.errors import CheckpointError
from policy_server.networks.policy import ActingNetwork
from policy_server.replay.draws import Draws, NothingToDraw, PrioritizedDraws, UniformDraws
from policy_server.replay.rate_limiter import RateLimiter
from policy_server.replay.remedy import WITHOUT
from policy_server.replay.sequences import DrawnSequences, SequenceBuffer
from policy_server.replay.steps import StepBuffer, Transitions
from policy_server.types import Batch

log = logging.getLogger(__name__)


class Movable(Protocol):
    """What can be brought to a device."""

    def to(self, device: torch.device) -> Self: ...


Item = TypeVar("Item", bound=Movable)


class Buffer(Protocol):
    """Where it is kept: `replay.steps.StepBuffer`, `replay.sequences.SequenceBuffer` or
    `replay.shards.ShardedSteps`."""

    capacity: int
    device: torch.device
    inserted: int

    @property
    def items(self) -> int: ...
    def insert(self, batch: Batch, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...
    def steps_of(self, places: np.ndarray) -> int: ...
    def drawable(self, places: np.ndarray) -> np.ndarray: ...
    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]: ...
    def load(self, tensors: dict[str, np.ndarray], data: dict[str, Any]) -> None: ...


class Drawn(NamedTuple, Generic[Item]):
    """What to learn from.

    Attributes:
        places: int64[n], where it lies.
        steps: n steps, or sequences of them.
        weights: `[n]`, importance weights.
        target_is_due: the target network is to move with this gradient step.
    """

    places: np.ndarray
    steps: Item
    weights: torch.Tensor
    target_is_due: bool


class Replayed(Generic[Item]):
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
        make_buffer: Callable[[torch.device], Any],
        read: Callable[[Any, np.ndarray], Item],
        steps_drawn: int,
        *,
        draws_itself: bool = False,
    ):
        """`make_buffer`: on a device; `read`: some places of it; `steps_drawn`: samples that one
        gradient step counts as; `draws_itself`: the buffer is `replay.draws.Draws`, too."""
        self._config, self._device = config, device
        self._rewards = (reward_scale, reward_clip)
        self._make_buffer, self._read = make_buffer, read
        self._draws_itself = draws_itself
        self._rng = np.random.default_rng(seed)
        self._limiter = RateLimiter(
            config.samples_per_insert,
            config.learning_starts,
            steps_drawn,
            config.max_gradient_steps,
        )
        self._target_at = 0  # inserted steps when the target network moved last
        self._said = False
        self._begin()

    def _begin(self) -> None:
        """With nothing in it."""
        c = self._config
        home = self._device if c.replay_on_gpu else torch.device("cpu")
        made: Any = self._make_buffer(home)
        self.buffer: Buffer = made
        self._draws: Draws = made if self._draws_itself else UniformDraws(self.buffer, self._rng)
        if c.prioritized and not self._draws_itself:
            self._draws = PrioritizedDraws(
                self.buffer, self._rng, c.prioritized_alpha, c.prioritized_beta, c.prioritized_eps
            )

    def due(
        self,
        batch: Batch,
        judge: Callable[[Item], torch.Tensor] | None = None,
        rewards: np.ndarray | None = None,
    ) -> Iterator[Drawn[Item]]:
        """Takes a batch in; then draws for each gradient step that is due. `judge`: how wrong the
        learner is about steps, `[n]`; then new ones come in with a priority of their own.
        `rewards`: instead of the batch's, float32 `[T, B, R]`, several per step."""
        given = batch.rewards if rewards is None else rewards
        gone, new = self.buffer.insert(batch, shaped(given, *self._rewards))
        self._draws.moved(gone, new)
        if judge is not None:
            self._judge(new, judge)
        due = self._limiter.insert(self.buffer.steps_of(new))
        if not len(new) and not self.buffer.items:
            self._say_nothing_to_draw()
        for made in range(due):
            try:
                drawn = self._draw()
            except NothingToDraw:
                self._limiter.forgive(due - made)
                self._say_nothing_to_draw()
                return
            yield drawn

    def _say_nothing_to_draw(self) -> None:
        """Once."""
        if not self._said:
            self._said = True
            log.warning(
                "Replay: expected steps to learn from, got none: behind each step that came, its "
                "episode was truncated or its unroll ended, and the mask of the actions there is not "
                "known. Let episodes go on for longer, or end in a termination."
            )

    def _judge(self, new: np.ndarray, judge: Callable[[Item], torch.Tensor]) -> None:
        known = new[self.buffer.drawable(new)]
        size = self._config.train_batch_size
        for start in range(0, len(known), size):
            places = known[start : start + size]
            self._surprised(places, judge(self._steps(places)))

    def _steps(self, places: np.ndarray) -> Item:
        steps = self._read(self.buffer, places)
        return steps if self.buffer.device == self._device else steps.to(self._device)

    def _target_is_due(self) -> bool:
        """Asked once per gradient step."""
        c = self._config
        if c.target_update_steps == 1:
            return True
        due = self._limiter.inserted - self._target_at >= c.target_update_steps
        if due:
            self._target_at = self._limiter.inserted
        return due

    def _draw(self) -> Drawn[Item]:
        c = self._config
        places, weights = self._draws.draw(c.train_batch_size)
        weights_there = torch.from_numpy(weights).to(self._device)
        return Drawn(places, self._steps(places), weights_there, self._target_is_due())

    def surprised(self, drawn: Drawn[Item], errors: torch.Tensor) -> None:
        """How wrong the learner was about each of them, `[n]`."""
        self._surprised(drawn.places, errors)

    def _surprised(self, places: np.ndarray, errors: torch.Tensor) -> None:
        if self._config.prioritized:
            numbers = errors.cpu().numpy()
            if np.isfinite(numbers).all():  # else the update ends in an error
                self._draws.surprised(places, numbers)

    @property
    def metrics(self) -> dict[str, float]:
        """For the operator."""
        return {"replay_size": float(self.buffer.items), **self._limiter.metrics}

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
        """Goes on from what `state` returned; where the buffer is not in it, or `save_replay` is
        off by now, it is filled up to `learning_starts` again before anything is drawn.

        Raises:
            CheckpointError: the stored buffer does not fit.
        """
        self._begin()
        self._rng.bit_generator.state = data["rng"]
        self._limiter.load(data["limiter"])
        self._target_at = int(data["target_at"])
        if "buffer" not in data or not self._config.save_replay:
            self._limiter.start_over()
            self._target_at = 0
            return
        prefix = "replay."
        mine = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        self.buffer.load(mine, data["buffer"])
        if isinstance(self._draws, PrioritizedDraws):
            if "draws" not in data:
                raise CheckpointError(
                    "the stored replay buffer has no priorities and training.prioritized = true: set "
                    f"it to false, or {WITHOUT}."
                )
            self._draws.load(mine, data["draws"])


def replayed_steps(
    config: ReplayTraining,
    device: torch.device,
    seed: int,
    reward_scale: float,
    reward_clip: float | None,
) -> Replayed[Transitions]:
    """The replay of single steps with n-step returns."""

    def read(buffer: StepBuffer, places: np.ndarray) -> Transitions:
        return buffer.transitions(places, config.n_step, config.gamma)

    return Replayed(
        config, device, seed, reward_scale, reward_clip,
        functools.partial(StepBuffer, config.buffer_size), read, config.train_batch_size,
    )  # fmt: skip


def replayed_sequences(
    config: SequenceTraining,
    network: ActingNetwork,
    device: torch.device,
    seed: int,
    reward_scale: float,
    reward_clip: float | None,
) -> Replayed[DrawnSequences]:
    """The replay of sequences, each with what `network` remembered before it."""

    def before(batch: Batch, t: np.ndarray, b: np.ndarray) -> np.ndarray:
        return states_before(network, ObservationRows.of_batch(batch, device), batch, t, b)

    length = config.sequence_length
    return Replayed(
        config, device, seed, reward_scale, reward_clip,
        lambda home: SequenceBuffer(
            config.buffer_size // length, config.burn_in, length, home, before
        ),
        SequenceBuffer.sequences, config.train_batch_size * length,
    )  # fmt: skip
