"""What a user can watch: one narrow observer with documented events.

Subclass `Callbacks`, override what you need, and give the class to `.callbacks(...)`. Episode
events run on the gateway's thread, after the replies of their tick went out: keep them short.
The other events run in the process that called `train()`. Return values are ignored.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from policy_server.types import Episode, Leaves


class Callbacks:
    """Every event, doing nothing."""

    def on_episode_start(self, *, policy: str, episode: int) -> None:
        """A lane began an episode. `episode`: its running number within the policy."""

    def on_episode_step(self, *, policy: str, episodes: np.ndarray, obs: Leaves) -> None:
        """A tick of one policy was answered.

        Shapes: `episodes` int64[n], the running number of each row's episode; `obs` one array
        `[n, ...]` per leaf, as the policy saw it.
        """

    def on_episode_end(self, *, episode: Episode) -> None:
        """An episode ended; `episode.ending` says how."""

    def on_train_result(self, *, result: dict[str, Any]) -> None:
        """`train()` is about to return `result`."""

    def on_evaluation(self, *, result: dict[str, Any]) -> None:
        """An evaluation is complete."""

    def on_checkpoint(self, *, path: str) -> None:
        """A checkpoint was written."""
