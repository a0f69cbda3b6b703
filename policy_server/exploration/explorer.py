"""What a plug-in is."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from policy_server.config import ModelConfig
from policy_server.exploration.successions import Successions
from policy_server.stepwise import Steps
from policy_server.types import PolicySpaces, PolicyState


class Explorer(Protocol):
    """Says how new steps are, and learns from them, so that they are less so the next time.

    The class also has its options as an attribute, `Options`: a dataclass with a default for each
    field, which `exploration.options` is read into.

    Attributes:
        weights: all that it learns or remembers as one tensor, to see whether it broke.
    """

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        options: Any,
        *,
        seed: int,
        device: torch.device,
    ): ...

    @property
    def weights(self) -> torch.Tensor: ...

    def reward(self, steps: Successions) -> torch.Tensor:
        """How new each step is, float32 `[N]`, at least 0, in any unit: it is put into proportion
        later. Nothing is learned here, but statistics of what is seen may move."""

    def learn(self, steps: Successions) -> Steps[dict[str, float]]:
        """Learns from steps whose rewards are given already; yields where it may be paused, and
        returns metrics."""

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here."""

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned.

        Raises:
            CheckpointError: it does not fit.
        """
