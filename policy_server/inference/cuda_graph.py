"""The forward pass on a GPU as CUDA graphs, one for each of some batch sizes ("buckets").

A tick has as many rows as simulators have asked; the graph of the next larger bucket takes them.
What it computes beyond them is thrown away. Rows go through page-locked memory in both
directions, and new weights are written over the old ones, where the graphs find them.

Lives on the gateway's thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from policy_server.captured import Captured
from policy_server.inference.torch_executor import TorchExecutor
from policy_server.networks.flatten import some_value
from policy_server.networks.policy import ActingNetwork
from policy_server.networks.snapshot import load_flat
from policy_server.types import Leaves
from sim_clients.protocol.spaces import Space, leaves

MOST_ROWS = 1024
"""Of the largest bucket; more rows than that go through it by turns."""
MOST_BYTES = 1 << 26
"""Of observations in the largest bucket."""


class CudaGraphExecutor(TorchExecutor):
    """Runs a network that does the same whatever it sees: its Python runs once per bucket.

    Args:
        network: the policy's.
        space: of observations, as the network sees them.
        device: a GPU. On a CPU nothing is recorded, and all else is the same.

    Only observations and heads pass through page-locked memory; new weights are copied tensor by
    tensor from where Ray has put them.
    """

    def __init__(self, network: ActingNetwork, space: Space, device: torch.device):
        super().__init__(network, device)
        self._static: list[torch.Tensor] = []
        self._staged: list[torch.Tensor] = []
        self._inputs: list[np.ndarray] = []
        pinned = device.type == "cuda"
        rows = _most_rows(space)
        for _, leaf in leaves(space):
            # What no observation can be would be no index for a network that takes it for one.
            blank = torch.from_numpy(np.stack([some_value(leaf)] * rows))
            self._staged.append(blank.pin_memory() if pinned else blank)
            self._inputs.append(self._staged[-1].numpy())
            self._static.append(blank.to(device, copy=True))
        self._buckets: dict[int, Captured] = {}
        pool: Any = None
        with torch.inference_mode():
            for size in sorted(_sizes(rows), reverse=True):  # the largest makes room for all
                self._buckets[size] = Captured(self._forward(size), device, pool=pool)
                pool = self._buckets[size].pool
            head = self._buckets[rows]()
        answer = torch.empty(head.shape, dtype=torch.float32)
        self._answer = answer.pin_memory() if pinned else answer
        self._rows = rows

    def load(self, weights: np.ndarray) -> None:
        load_flat(self.network, weights)  # written over the old ones, where the graphs find them
        self._read_log_std()

    def _forward(self, size: int) -> Callable[[], torch.Tensor]:
        obs, network = [leaf[:size] for leaf in self._static], self.network
        return lambda: network.policy(obs).float()

    @torch.inference_mode()
    def __call__(self, obs: Leaves) -> np.ndarray:
        n = len(obs[0])
        if n <= self._rows:
            return self._some(obs)
        parts = [
            self._some(tuple(leaf[start : start + self._rows] for leaf in obs))
            for start in range(0, n, self._rows)
        ]
        return np.concatenate(parts)

    def _some(self, obs: Leaves) -> np.ndarray:
        n = len(obs[0])
        for mine, leaf, staged, static in zip(
            self._inputs, obs, self._staged, self._static, strict=True
        ):
            mine[:n] = leaf
            static[:n].copy_(staged[:n], non_blocking=True)
        head = self._buckets[bucket(n, self._rows)]()
        self._answer[:n].copy_(head[:n], non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return self._answer[:n].numpy().copy()


def bucket(n: int, largest: int) -> int:
    """Rows of the smallest bucket that holds n, 1 <= n <= largest: a power of two, or largest."""
    return min(1 << (n - 1).bit_length(), largest)


def _sizes(largest: int) -> set[int]:
    return {bucket(1 << i, largest) for i in range(largest.bit_length())} | {largest}


def _most_rows(space: Space) -> int:
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for _, leaf in leaves(space))
    return max(1, min(MOST_ROWS, MOST_BYTES // max(1, size)))
