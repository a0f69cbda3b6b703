"""Options of everything that learns from replayed steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.algorithms.options import CLIPPINGS, Options
from policy_server.algorithms.training import Training


@dataclass(frozen=True)
class ReplayTraining(Training):
    """Base of their options.

    Attributes:
        lr: step size of Adam, > 0.
        gamma: discount per step, 0..1.
        train_batch_size: replayed steps of one gradient step.
        steps_per_update: steps that one update takes from the simulators; its gradient steps are
            those of samples_per_insert.
        samples_per_insert: how often each step is replayed on average, > 0.
        learning_starts: steps before the first gradient step.
        max_gradient_steps: of one update; None: all that samples_per_insert asks for. A limit lets
            a learner that is too slow fall behind instead of making simulators wait.
        buffer_size: steps kept.
        replay_on_gpu: keep observations and actions on the learner's device.
        save_replay: checkpoints hold the replay buffer; without it a stored one is not read, either.
        prioritized: replay what surprised most.
        prioritized_alpha: how much that counts, 0 (not at all) to 1.
        prioritized_beta: how much of the bias is corrected, 0..1.
        prioritized_eps: least surprise, > 0.
        n_step: rewards in a return before it bootstraps.
        target_update_steps: collected steps between two moves of the target network, counted in
            whole updates; 1: it moves with each gradient step.
        tau: how far it moves, 0..1; 1: a copy.
        grad_clip: limit of the gradient, > 0; None: no limit.
        grad_clip_by: what is limited: "global_norm" (norm of the whole gradient), "norm" (of
            each parameter tensor) or "value" (each number).
        adam_eps: epsilon of Adam, > 0.

    Raises:
        ConfigError: a value is impossible, or two of them contradict each other.
    """

    lr: float = 5e-4
    gamma: float = 0.99
    train_batch_size: int = 32
    steps_per_update: int = 64
    samples_per_insert: float = 8.0
    learning_starts: int = 1000
    max_gradient_steps: int | None = None
    buffer_size: int = 50_000
    replay_on_gpu: bool = False
    save_replay: bool = False
    prioritized: bool = False
    prioritized_alpha: float = 0.6
    prioritized_beta: float = 0.4
    prioritized_eps: float = 1e-6
    n_step: int = 1
    target_update_steps: int = 500
    tau: float = 1.0
    grad_clip: float | None = 40.0
    grad_clip_by: str = "global_norm"
    adam_eps: float = 1e-8

    off_policy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        options = Options(self)
        for name in ("lr", "samples_per_insert", "adam_eps"):
            options.number(name, 0.0, above=True)
        options.number("grad_clip", 0.0, above=True, optional=True)
        options.number("gamma", 0.0, 1.0)
        options.number("tau", 0.0, 1.0, above=True)
        for name in (
            "train_batch_size", "steps_per_update", "buffer_size", "n_step", "target_update_steps",
        ):  # fmt: skip
            options.integer(name, 1)
        options.integer("learning_starts", 0)
        if self.max_gradient_steps is not None:
            options.integer("max_gradient_steps", 1)
        for name in ("prioritized_alpha", "prioritized_beta"):
            options.number(name, 0.0, 1.0)
        options.number("prioritized_eps", 0.0, above=True)
        for name in ("replay_on_gpu", "save_replay", "prioritized"):
            options.flag(name)
        options.one_of("grad_clip_by", CLIPPINGS)
        if self.buffer_size < 2 * self.steps_per_update:
            options.refuse(
                "buffer_size", "steps_per_update", "the buffer must hold two batches at least"
            )
        if self.learning_starts > self.buffer_size:
            options.refuse("learning_starts", "buffer_size", "the buffer never holds so many steps")

    @property
    def batch_steps(self) -> int:
        return self.steps_per_update
