"""Ways to run a policy's network forward. All of them give the learner's numbers.

NumPy for small plain MLPs on a CPU: to choose 16 actions of an 8-64-64-5 network takes 13 us
there and 62 us in eager torch (`policy-server bench --workloads parts`). Torch for everything
else; on a GPU as CUDA graphs (`cuda_graph`), except for networks of the user's own, whose Python
may decide by what it sees.

Lives on the gateway's thread.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from policy_server.config import InferenceConfig
from policy_server.config_checks import EXECUTORS
from policy_server.errors import ConfigError
from policy_server.inference.cuda_graph import CudaGraphExecutor
from policy_server.inference.few_rows import FewRows
from policy_server.inference.numpy_executor import NumpyExecutor
from policy_server.inference.torch_executor import TorchExecutor
from policy_server.networks.device import pick_device
from policy_server.networks.policy import ActingNetwork, StandardNetwork
from policy_server.types import Leaves
from sim_clients.protocol.spaces import Space


class Executor(Protocol):
    """Observations in, heads out.

    Attributes:
        few: does all of acting in one call where rows are few; None: there is no such way.
    """

    few: FewRows | None

    def vector(self, obs: Leaves) -> np.ndarray:
        """What `few` takes: float32 `[n, inputs]`."""
        ...

    def __call__(self, obs: Leaves) -> np.ndarray:
        """Leaves `[n, ...]` -> head float32 `[n, H]`."""
        ...

    def step(self, obs: Leaves, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for a network with a memory: states before, float32 `[n, S]` -> heads and the
        states behind."""
        ...

    @property
    def log_std(self) -> np.ndarray | None:
        """float32 `[D]`, or None where the head has it."""
        ...

    def load(self, weights: np.ndarray) -> None:
        """Takes over a flat snapshot, float32 `[P]`; what nobody can write to is not copied."""
        ...

    def weights(self) -> np.ndarray:
        """The flat snapshot in use, float32 `[P]`, read-only."""
        ...


def make_executor(network: ActingNetwork, space: Space, config: InferenceConfig) -> Executor:
    """The fastest executor that fits a network that sees `space`. "auto" keeps plain MLPs on the
    CPU even where there is a GPU: their forward is shorter than a kernel launch.

    Raises:
        ConfigError: the one that was asked for does not fit, or there is no such device.
    """
    plain = network.policy_layers()
    fits = plain is not None and NumpyExecutor.fits(plain)
    if config.executor == "numpy" and not fits:
        raise ConfigError(
            "inference.executor: 'numpy' runs plain MLPs only, in float32, and this policy's "
            "network is more than that: use 'auto' or 'torch'."
        )
    if config.executor not in EXECUTORS:
        raise ConfigError(
            f"inference.executor: expected one of {', '.join(EXECUTORS)}, got '{config.executor}'."
        )
    on_cpu = config.device in ("auto", "cpu")
    if fits and (config.executor == "numpy" or (config.executor == "auto" and on_cpu)):
        return NumpyExecutor(network)
    device = pick_device(config.device)
    if config.executor == "cuda_graph" and device.type != "cuda":
        raise ConfigError(
            f"inference.executor: 'cuda_graph' expects a GPU, got device '{device}': use 'auto'."
        )
    standard = isinstance(network, StandardNetwork) and device.type == "cuda"
    if config.executor == "cuda_graph" or (config.executor == "auto" and standard):
        return CudaGraphExecutor(network, space, device)
    return TorchExecutor(network, device)
