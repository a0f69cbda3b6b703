"""What the options of every algorithm say beside their fields."""

from __future__ import annotations

from typing import ClassVar

from policy_server.acting import Acting, Stochastic
from policy_server.algorithms.supports import Supports


class Training:
    """Base of all training options, which are frozen dataclasses on top of it.

    What is answered here is right for an algorithm that learns from `train_batch_size` steps of
    the policy as it stands; others say otherwise.

    Attributes:
        title: the algorithm in a few words.
        supports: what the algorithm can work with.
        mode: what `collection.mode` "auto" means: "sync" or "async".
        off_policy: no step is ever too old to learn from.
        one_version: all steps of a batch must come from the policy as it stands, so that neither
            asynchronous collection nor one that runs ahead will do.
    """

    title: ClassVar[str] = ""
    supports: ClassVar[Supports] = Supports()
    mode: ClassVar[str] = "sync"
    off_policy: ClassVar[bool] = False
    one_version: ClassVar[bool] = False

    train_batch_size: int

    @property
    def batch_steps(self) -> int:
        """Steps that one update takes from the simulators."""
        return self.train_batch_size

    @property
    def fragment_length(self) -> int | None:
        """Steps of an unroll where `collection.fragment_length` does not say; None: see there."""
        return None

    @property
    def acting(self) -> Acting:
        """How the policy acts."""
        return Stochastic()
