"""Random encoders for efficient exploration: new is what lies far from all that was seen.

A network of random weights, which never change, makes y = f(s) of each observation. The reward of a
step is

    r_t = log(1 + |y_t - y_t^kNN|),

where y_t^kNN is its k-th nearest neighbor among the observations seen lately: an estimate of how
much the step adds to the entropy of what is visited. Nothing is learned.

Source: Seo et al., https://arxiv.org/abs/2102.09430. What can be set is in `options.RE3Options`;
the paper's decay of the reward's weight is `exploration.decay`. Where this page deviates:

- Neighbors are looked for among the last `memory` observations and the batch itself, whatever the
  algorithm. What is replayed keeps the reward of when it was new.
"""

from __future__ import annotations

import torch

from policy_server.algorithms.saved import load_tensors, tensors_of
from policy_server.algorithms.trained import seeded
from policy_server.config import ModelConfig
from policy_server.errors import CheckpointError
from policy_server.exploration.embedding import Embedding
from policy_server.exploration.options import RE3Options
from policy_server.exploration.successions import Successions
from policy_server.stepwise import Steps
from policy_server.types import PolicySpaces, PolicyState

CHUNK = 1024
"""Rows whose distances to all others are computed together."""


def neighbor_distances(y: torch.Tensor, others: torch.Tensor, k: int) -> torch.Tensor:
    """Euclidean distance of each row to its k-th nearest neighbor among all others of both, itself
    excepted; to the furthest, where there are fewer than k. `[N]`

    Shapes: y `[N, F]`, others `[M, F]`.
    """
    assert y.shape[1] == others.shape[1]
    if len(y) + len(others) == 1:
        return torch.zeros(len(y), device=y.device)
    everybody = torch.cat([others, y])
    found = []
    for i, some in enumerate(torch.split(y, CHUNK)):
        # Exact, so that those who are alike are at distance 0.
        apart = torch.cdist(some, everybody, compute_mode="donot_use_mm_for_euclid_dist")
        rows = torch.arange(len(some), device=y.device)
        apart[rows, len(others) + i * CHUNK + rows] = torch.inf  # itself
        kth = min(k, len(everybody) - 1)
        found.append(apart.kthvalue(kth, dim=1).values)
    return torch.cat(found)


class RE3:
    """Seeks what is far from what it knows.

    Attributes:
        encoder: f.
        seen: `[M, F]`, f of the observations seen lately, oldest first.
    """

    Options = RE3Options

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        options: RE3Options,
        *,
        seed: int,
        device: torch.device,
    ):
        self.options = options
        space, features = spaces.observation, options.features
        self.encoder = seeded(lambda: Embedding(space, model, features), seed, device)
        self.encoder.requires_grad_(False)
        self.seen = torch.zeros(0, features, device=device)

    @property
    def weights(self) -> torch.Tensor:
        """What is remembered."""
        return self.seen

    def reward(self, steps: Successions) -> torch.Tensor:
        """How far each step's observation lies from its k-th neighbor: log(1 + distance). `[N]`"""
        y = steps.obs.evaluate(steps.rows, self.encoder)
        return neighbor_distances(y, self.seen, self.options.neighbors).log1p()

    def learn(self, steps: Successions) -> Steps[dict[str, float]]:
        """Remembers them."""
        y = steps.obs.evaluate(steps.rows, self.encoder)
        self.seen = torch.cat([self.seen, y])[-self.options.memory :]
        yield
        return {"re3_memory": float(len(self.seen))}

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here."""
        tensors = tensors_of({"encoder": self.encoder}, {})
        return PolicyState(tensors | {"seen": self.seen.cpu().numpy().copy()}, {})

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        load_tensors(state, {"encoder": self.encoder}, {})
        seen = torch.tensor(state.tensors["seen"]).to(self.seen.device)
        if seen.shape[1:] != self.seen.shape[1:]:
            raise CheckpointError(
                f"RE3: expected {self.seen.shape[1]} features, got {seen.shape[1]} stored."
            )
        self.seen = seen[-self.options.memory :]
