"""What a full replay buffer takes, as docs/OPERATING.md says it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from policy_server.algorithms.r2d2 import R2D2
from policy_server.algorithms.r2d2_options import R2D2Training
from policy_server.algorithms.replay_options import ReplayTraining
from policy_server.algorithms.replayed import Replayed, replayed_steps
from policy_server.config import ModelConfig
from policy_server.networks import build_network
from policy_server.types import ActionLayout, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiDiscrete, leaves
from tests.algorithms.handmade import random_batch

CASES = {
    "numbers": PolicySpaces(Box(-1, 1, (4,)), Discrete(3)),
    "images, masked": PolicySpaces(Box(0, 255, (6, 5, 4), np.uint8), MultiDiscrete([3, 4]), True),
    "hybrid": PolicySpaces(
        Dict({"a": Discrete(5), "b": Box(-1, 1, (3,))}),
        Dict({"c": Discrete(2), "d": Box(-1, 1, (2,))}),
    ),
}


def formula(spaces: PolicySpaces, rows: int, prioritized: bool) -> int:
    """observation + 4 K + 4 D + W + 14 bytes a row; 16 per place of the priorities' tree, whose
    places are the next power of two."""
    layout = ActionLayout(spaces.action)
    observation = sum(
        int(np.prod(leaf.shape)) * leaf.dtype.itemsize for _, leaf in leaves(spaces.observation)
    )
    mask = layout.mask_width if spaces.mask else 0
    bytes_ = rows * (observation + 4 * layout.categories + 4 * layout.reals + mask + 14)
    return bytes_ + (16 * 2 ** (rows - 1).bit_length() if prioritized else 0)


def arrays(thing: Any, seen: set[int]) -> Iterator[np.ndarray]:
    """All that a replay keeps, wherever it has it."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, (torch.Tensor, np.ndarray)):
        yield np.asarray(thing)
    elif isinstance(thing, (list, tuple, dict)):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from arrays(part, seen)
    elif type(thing).__module__.startswith("policy_server."):
        for part in list(vars(thing).values()):  # not as a list, whose number another will have
            yield from arrays(part, seen)


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rows", [256, 300])
def test_a_full_buffer_takes_what_the_formula_says(case: str, prioritized: bool, rows: int) -> None:
    spaces = CASES[case]
    config = ReplayTraining(
        buffer_size=rows, learning_starts=8, train_batch_size=4, prioritized=prioritized
    )
    replayed = replayed_steps(config, torch.device("cpu"), 0, 1.0, None)
    fill(replayed, spaces, 0)
    assert taken(replayed, rows) == formula(spaces, rows, prioritized)


def fill(replayed: Replayed[Any], spaces: PolicySpaces, state_size: int) -> None:
    """Until the first half was overwritten."""
    network = build_network(spaces, ModelConfig(hidden=(4,)))
    seed = 0
    while replayed.buffer.inserted < 1.5 * replayed.buffer.capacity:
        batch = random_batch(network, spaces, 20, 3, seed)
        state = np.ones((3, state_size), np.float32)
        for _ in replayed.due(dataclasses.replace(batch, state=state)):
            pass
        seed += 1


def taken(replayed: Replayed[Any], rows: int) -> int:
    """Bytes of all its arrays, of which none is idle."""
    kept = [array for array in arrays(replayed, set()) if array.size]
    assert all(len(array) >= rows and array.any() for array in kept)
    return sum(array.nbytes for array in kept)


def test_full_sequences_take_what_the_formula_says() -> None:
    spaces, model = CASES["numbers"], ModelConfig(hidden=(4,), memory="lstm", memory_size=5)
    config = R2D2Training(
        burn_in=3, sequence_length=4, buffer_size=400, steps_per_update=60, learning_starts=8,
        train_batch_size=2,
    )  # fmt: skip
    page = R2D2(spaces, model, config, seed=0, device=torch.device("cpu"))
    size = page.network.state_size
    assert size == 10
    fill(page.replayed, spaces, size)
    rows = page.replayed.buffer.capacity
    each = (3 + 4 + 1) * 4 * 4 + 8 * 4 + 4 * size + 6
    assert taken(page.replayed, rows) == rows * each + 16 * 2 ** (rows - 1).bit_length()
