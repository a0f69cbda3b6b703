"""Options of everything with an actor and critics of its own that learns from replayed steps."""

from __future__ import annotations

from dataclasses import dataclass

from policy_server.algorithms.options import Options
from policy_server.algorithms.replay_options import ReplayTraining


@dataclass(frozen=True)
class ActorCriticReplayTraining(ReplayTraining):
    """Base of their options.

    Attributes:
        critic_lr: step size of the critics, > 0; None: lr.
        random_steps: of the policy, at first, that are uniform over the action space.
    """

    lr: float = 3e-4
    critic_lr: float | None = None
    train_batch_size: int = 256
    samples_per_insert: float = 256.0
    learning_starts: int = 1500
    random_steps: int = 1500
    buffer_size: int = 1_000_000
    target_update_steps: int = 1
    tau: float = 0.005
    grad_clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        options = Options(self)
        options.number("critic_lr", 0.0, above=True, optional=True)
        options.integer("random_steps", 0)

    @property
    def critics_lr(self) -> float:
        """The step size of the critics."""
        return self.lr if self.critic_lr is None else self.critic_lr
