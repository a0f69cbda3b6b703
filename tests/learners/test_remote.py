"""The gateway's end of a learner in another process, over Ray."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from handmade import random_batch
from ray.exceptions import RayActorError

from policy_server import algorithms
from policy_server.config import ModelConfig, PreprocessingConfig
from policy_server.learners.remote import RayLearner
from policy_server.networks import build_network
from policy_server.server import start_ray
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Box, Discrete

SPACES = PolicySpaces(Box(-1, 1, (3,)), Discrete(3))
MODEL = ModelConfig(hidden=(4,))


@pytest.mark.timeout(120)
def test_weights_outlive_a_learner_that_dies_before_its_state_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Importing it makes it known, here only for this test.
    monkeypatch.setattr(algorithms, "_PAGES", dict(algorithms._PAGES))
    from tests.learners.stubborn import StubbornTraining

    marker = tmp_path / "kept"
    arguments: dict[str, Any] = {
        "policy_name": "blue", "spaces": SPACES, "algorithm": "Stubborn",
        "training": StubbornTraining(str(marker)), "model": MODEL,
        "preprocessing": PreprocessingConfig(), "seed": 3, "device": "cpu",
    }  # fmt: skip
    news = threading.Event()

    def wait_for(look: Callable[[], Any]) -> Any:
        """Polls as the gateway's loop does: whenever it is woken."""
        for _ in range(600):
            news.clear()
            if found := look():
                return found
            news.wait(0.1)
        raise AssertionError("nothing came for a minute")

    batch = random_batch(build_network(SPACES, MODEL), SPACES, 4, 2, 0)
    start_ray(None)
    try:
        learner = RayLearner(arguments, None, {"num_cpus": 0}, 1, 0, news.set)
        assert wait_for(lambda: (learner.poll(), learner.pid)[1])
        victim, before = learner.pid, ray.get(learner.request_state())
        assert before.data["updates"] == 0
        learner.submit(batch, 0)
        result = wait_for(learner.poll)
        wait_for(marker.exists)
        lost = learner.request_state()
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: (learner.poll(), learner.pid not in (None, victim))[1])
        with pytest.raises(RayActorError):
            ray.get(lost)
        state = ray.get(learner.request_state())
        assert state.data["updates"] == 1
        assert state.data["own updates"] == 0, "all but the weights is from before"
        for name, tensor in before.tensors.items():
            np.testing.assert_array_equal(state.tensors[name], tensor + 1)
        learner.submit(batch, 8)
        again = wait_for(learner.poll)
        assert again.updates == 2
        np.testing.assert_array_equal(again.weights, result.weights + 1)
        assert learner.restarts == 1
    finally:
        ray.shutdown()
