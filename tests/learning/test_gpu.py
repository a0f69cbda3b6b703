"""Every algorithm learns on a GPU what it learns on the CPU: networks, replay and memory lie there."""

from __future__ import annotations

from typing import Any

import pytest

from policy_server import algorithms
from policy_server.algorithms.replay_options import ReplayTraining
from tests.gpu import needs_gpu
from tests.learning import worlds
from tests.learning.test_every_algorithm import CASES, WORLDS, greedy_return

ONE_EACH = {name: world for name, world in CASES if world not in ("Echo", "Picture", "Shade")}
PICTURES = {name: world for name, world in CASES if world in ("Picture", "Shade")}


def options(name: str) -> dict[str, Any]:
    """Replay buffers are there, too."""
    replays = issubclass(algorithms.training_class(name), ReplayTraining)
    return {"replay_on_gpu": True} if replays else {}


def solved(name: str, world: str) -> bool:
    reached = greedy_return(name, WORLDS[world], "cuda", **options(name))
    return WORLDS[world].solved <= reached <= worlds.EPISODE_STEPS


@needs_gpu
@pytest.mark.parametrize("name", ONE_EACH)
def test_it_is_solved_on_a_gpu(name: str) -> None:
    assert solved(name, ONE_EACH[name])


@needs_gpu
@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_solved_on_a_gpu(name: str) -> None:
    assert solved(name, PICTURES[name])


@needs_gpu
@pytest.mark.parametrize("name", [name for name, world in CASES if world == "Echo"])
def test_memory_is_on_a_gpu(name: str) -> None:
    assert solved(name, "Echo")
