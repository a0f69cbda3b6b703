"""Episodes that are each played with noise of their own in the network's parameters.

A lane keeps the parameters of its episode, from the first action to the last, whatever is
published meanwhile: lanes x parameters x 4 bytes. All lanes are answered by one forward pass.

Lives on the gateway's thread.
"""

from __future__ import annotations

import numpy as np
import torch

from policy_server.acting import CLEAN, Perturbed
from policy_server.config import InferenceConfig
from policy_server.errors import ConfigError
from policy_server.inference.few_rows import FewRows
from policy_server.networks.actor import ActorNetwork
from policy_server.networks.device import pick_device
from policy_server.networks.per_row import per_row
from policy_server.networks.policy import ActingNetwork
from policy_server.networks.snapshot import (
    as_tensor,
    check_vector,
    flatten_parameters,
    kept,
    learned,
)
from policy_server.perturbation import perturbed
from policy_server.types import Leaves


class PerturbedExecutor:
    """An executor that must be told which episode begins on which lane."""

    few: FewRows | None = None
    log_std: np.ndarray | None = None

    def __init__(
        self, network: ActingNetwork, acting: Perturbed, inference: InferenceConfig, seed: int
    ):
        """`seed`: of the policy.

        Raises:
            ConfigError: another executor was asked for, or there is no such device.
        """
        if inference.executor not in ("auto", "torch"):
            raise ConfigError(
                f"inference.executor: '{inference.executor}' runs one network, and here each "
                "episode has parameters of its own: use 'auto' or 'torch'."
            )
        assert isinstance(network, ActorNetwork)
        plain_on_cpu = network.policy_layers() is not None and inference.device == "auto"
        self._device = torch.device("cpu") if plain_on_cpu else pick_device(inference.device)
        weights, self._learned = flatten_parameters(network), learned(network)
        self._forward = per_row(network.to(self._device).eval())
        self._acting, self._seed = acting, seed
        self._size = len(weights)
        self._rows = torch.zeros((0, self._size), device=self._device)  # by slot
        self._episodes = np.zeros(0, np.int64)  # by slot; CLEAN: none
        self._fresh = np.zeros(0, bool)  # by slot: its row is still to be made
        self.load(weights)

    def vector(self, obs: Leaves) -> np.ndarray:
        raise TypeError("there is no vector where there is no `few`")

    def step(self, obs: Leaves, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise TypeError("no algorithm perturbs a network with a memory")

    def start(self, slots: np.ndarray, episodes: np.ndarray) -> None:
        """Episodes with these numbers, or CLEAN, begin on these lanes; with the parameters that
        are there when they act first."""
        missing = int(slots.max(initial=-1)) + 1 - len(self._fresh)
        if missing > 0:
            size = max(len(self._fresh) + missing, 2 * len(self._fresh), 16)
            self._fresh = np.concatenate([self._fresh, np.zeros(size - len(self._fresh), bool)])
            clean = np.full(size - len(self._episodes), CLEAN, np.int64)
            self._episodes = np.concatenate([self._episodes, clean])
        self._episodes[slots] = episodes
        self._fresh[slots] = episodes != CLEAN

    @torch.no_grad()
    def __call__(self, obs: Leaves, slots: np.ndarray | None = None) -> np.ndarray:
        """Leaves `[n, ...]` of the lanes `slots` int64[n] -> heads float32 `[n, H]`; None: all by
        the network itself."""
        tensors = [as_tensor(leaf).to(self._device) for leaf in obs]
        rows = self._clean.expand(len(obs[0]), -1) if slots is None else self._rows_of(slots)
        return np.ascontiguousarray(self._forward(rows, tensors).cpu().numpy())

    def _rows_of(self, slots: np.ndarray) -> torch.Tensor:
        """`[n, P]`"""
        for slot in slots[self._fresh[slots]].tolist():
            self._make(slot)
        clean = self._episodes[slots] == CLEAN
        if clean.all():
            return self._clean.expand(len(slots), -1)
        places = torch.from_numpy(np.where(clean, 0, slots)).to(self._device)
        rows = self._rows.index_select(0, places)
        if clean.any():
            rows[torch.from_numpy(clean).to(self._device)] = self._clean
        return rows

    def _make(self, slot: int) -> None:
        """The row of an episode that acts for the first time."""
        missing = len(self._fresh) - len(self._rows)
        if missing > 0:
            more = torch.zeros((missing, self._size), device=self._device)
            self._rows = torch.cat([self._rows, more])
        episode = int(self._episodes[slot])
        deviation = self._acting.deviation
        row = perturbed(self._weights, self._learned, deviation, self._seed, episode)
        self._rows[slot] = torch.from_numpy(row).to(self._device)
        self._fresh[slot] = False

    def load(self, weights: np.ndarray) -> None:
        check_vector(weights, self._size)
        self._weights = kept(weights)
        self._clean = as_tensor(self._weights).to(self._device)

    def weights(self) -> np.ndarray:
        return self._weights
