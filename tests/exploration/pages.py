"""The plug-ins, made small."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from handmade import random_batch

from policy_server.config import ExplorationConfig, ModelConfig
from policy_server.exploration.plugin import explorer_class, options_of
from policy_server.networks import build_network
from policy_server.types import Batch, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

CPU = torch.device("cpu")
NAMES = ("ICM", "RND", "RE3")
MODEL = ModelConfig(hidden=(8,))
SPACES = PolicySpaces(
    Tuple([Box(-9, 9, (3,)), Discrete(4)]),
    Dict({"choices": MultiDiscrete([3, 2]), "amount": Box(-1, 1, (2,))}),
)


def make(name: str, seed: int = 0, **options: Any) -> Any:
    config = ExplorationConfig(name, options={"features": 5, **options})
    return explorer_class(name)(SPACES, MODEL, options_of(config), seed=seed, device=CPU)


def some_batch(seed: int, steps: int = 6, lanes: int = 3) -> Batch:
    torch.manual_seed(0)
    lengths = np.array([steps, 2, steps - 1])[:lanes]
    network = build_network(SPACES, MODEL)
    return random_batch(network, SPACES, steps, lanes, seed, lengths)
