"""Gateways without sockets, whose learners audit instead of learning."""

from __future__ import annotations

from typing import Any

import pytest

from policy_server import server
from policy_server.gateway.gateway import Gateway
from policy_server.settings import Settings
from tests.gateway.ledger import Auditor


class World:
    """A gateway, its auditors by policy, and a clock that stands still."""

    def __init__(self, **sections: Any):
        algorithm, training = sections.pop("algorithm", "PPO"), sections.pop("training", {})
        if algorithm == "PPO":
            training = {"train_batch_size": 64, "minibatch_size": 64, "num_epochs": 1} | training
        mapping = {"algorithm": algorithm, "training": training, "server": {"seed": 1}, **sections}
        self.settings = Settings.from_mapping(mapping)
        self.auditors: dict[str, Auditor] = {}
        self.now = 100.0
        self.gateway: Gateway = server.build_gateway(self.settings, self._learner, None, None, 0)
        self.gateway.clock = lambda: self.now

    def _learner(self, arguments: dict[str, Any], state: Any) -> Auditor:
        from policy_server.learners.learner import Learner

        weights = Learner(**{**arguments, "threads": 1}).weights()
        collection = self.settings.collection
        most = None if collection.mode == "async" else 2 if collection.ahead else 1
        auditor = Auditor(weights, max_versions=most)
        self.auditors[arguments["policy_name"]] = auditor
        return auditor

    def tick(
        self, *inbox: tuple[bytes, bytes], seconds: float = 0.001
    ) -> list[tuple[bytes, bytes]]:
        """One tick of the gateway."""
        self.now += seconds
        out = self.gateway.answer(list(inbox), self.now)
        self.gateway.finish(self.now)
        return out

    @property
    def desk(self) -> Any:
        (desk,) = self.gateway.desks.values()
        return desk

    def balances(self) -> None:
        """Every account of every desk, checked now."""
        for desk in self.gateway.desks.values():
            assert desk.accounts.balance(desk.store.steps) == 0


@pytest.fixture
def world() -> type[World]:
    return World


@pytest.fixture
def free() -> World:
    """A world whose learner is at work without end, so that no request waits."""
    w = World(collection={"mode": "async"})
    w.gateway.train(None)
    return w
