"""What a desk needs of the two it works with: the policy that answers, the learner behind it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from policy_server.types import Batch, Leaves, UpdateResult


class Served(Protocol):
    """A policy that answers; `inference.served.ServedPolicy` is one."""

    layout: Any
    scale: Any
    sees_as_sent: bool
    states: Any
    perturbs: bool
    explores: bool

    def see(
        self, columns: list[np.ndarray], slots: np.ndarray, first: np.ndarray, learn: bool
    ) -> Leaves: ...
    def peek(self, columns: list[np.ndarray], slots: np.ndarray) -> Leaves: ...
    def start(self, slots: np.ndarray, episodes: np.ndarray) -> None: ...
    def choose(
        self,
        obs: Leaves,
        mask: np.ndarray | None,
        slots: np.ndarray,
        keys: np.ndarray,
        draws: np.ndarray,
        greedy: np.ndarray | None,
        policy_steps: int,
    ) -> Any: ...
    def log_prob(
        self,
        obs: Leaves,
        mask: np.ndarray | None,
        categories: np.ndarray,
        reals: np.ndarray,
        slots: np.ndarray,
    ) -> np.ndarray: ...
    def to_simulator(self, choice: Any) -> list[np.ndarray]: ...
    def lane_keys(self, *place: object, lanes: int) -> np.ndarray: ...
    def add_lanes(self, lanes: int) -> None: ...
    def load(self, weights: np.ndarray) -> None: ...
    def state(self) -> dict[str, np.ndarray]: ...
    def restore(self, state: dict[str, np.ndarray]) -> None: ...
    @property
    def columns(self) -> tuple[tuple[tuple[int, ...], np.dtype], ...]: ...


class LearnerHandle(Protocol):
    """Where batches go; `server.build` makes one. Nothing here may block the gateway for long."""

    def submit(self, batch: Batch, env_steps: int) -> None: ...
    def poll(self) -> UpdateResult | None: ...
    def request_state(self) -> Any: ...
    @property
    def state_name(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def ready(self) -> bool: ...
