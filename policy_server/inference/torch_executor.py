"""The network itself, run by torch.

Lives on the gateway's thread.
"""

from __future__ import annotations

import numpy as np
import torch

from policy_server.inference.few_rows import FewRows
from policy_server.networks.policy import ActingNetwork
from policy_server.networks.snapshot import flatten_parameters, load_flat
from policy_server.networks.weight_views import WeightViews
from policy_server.types import Leaves


class TorchExecutor:
    """Runs the network itself."""

    few: FewRows | None = None

    def __init__(self, network: ActingNetwork, device: torch.device):
        self.network = network.to(device).eval()
        self.device = device
        self._views = WeightViews(self.network)
        self._log_std: np.ndarray | None = None
        self._read_log_std()

    def vector(self, obs: Leaves) -> np.ndarray:
        raise TypeError("there is no vector where there is no `few`")

    @torch.inference_mode()
    def __call__(self, obs: Leaves) -> np.ndarray:
        tensors = [torch.from_numpy(_own(leaf)).to(self.device) for leaf in obs]
        # A network of the user's may answer with a part of something larger.
        return np.ascontiguousarray(self.network.policy(tensors).float().cpu().numpy())

    @torch.inference_mode()
    def step(self, obs: Leaves, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tensors = [torch.from_numpy(_own(leaf)).to(self.device) for leaf in obs]
        heads, behind = self.network.step(tensors, torch.from_numpy(states).to(self.device))
        return heads.float().cpu().numpy(), behind.cpu().numpy()

    @property
    def log_std(self) -> np.ndarray | None:
        return self._log_std

    def load(self, weights: np.ndarray) -> None:
        if self._views.possible:  # however large: the loop does not wait for a copy
            self._views.show(weights)
        else:
            load_flat(self.network, weights)
        self._read_log_std()

    def weights(self) -> np.ndarray:
        return flatten_parameters(self.network)

    def _read_log_std(self) -> None:
        log_std = self.network.log_std
        self._log_std = None if log_std is None else log_std.detach().float().cpu().numpy().copy()


def _own(leaf: np.ndarray) -> np.ndarray:
    """torch wants memory it could write to."""
    return leaf if leaf.flags.writeable else leaf.copy()
