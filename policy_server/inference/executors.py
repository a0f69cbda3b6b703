"""Ways to run a policy's network forward. All of them give the learner's numbers.

NumPy for small plain MLPs on a CPU: one forward of an 8-64-64-5 network at batch 8 took 10 us
there and 47 us in eager torch (best of five timeit runs of 2,000, one thread, two-core machine,
2026-11-21). Torch for everything else.

Lives on the gateway's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from policy_server.config import InferenceConfig
from policy_server.errors import ConfigError
from policy_server.inference.few_rows import FEW, FewRows
from policy_server.networks.device import pick_device
from policy_server.networks.mlp import DenseLayer
from policy_server.networks.policy import PlainPolicy, PolicyNetwork
from policy_server.networks.snapshot import can_view, load_flat, view_flat
from policy_server.types import Leaves


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

    @property
    def log_std(self) -> np.ndarray | None:
        """float32 `[D]`, or None where the head has it."""
        ...

    def load(self, weights: np.ndarray) -> None:
        """Takes over a flat snapshot, float32 `[P]`."""
        ...


def make_executor(network: PolicyNetwork, config: InferenceConfig) -> Executor:
    """The fastest executor that fits. "auto" keeps plain MLPs on the CPU even where there is a
    GPU: their forward is shorter than a kernel launch."""
    plain = network.policy_layers()
    fits = plain is not None and NumpyExecutor.fits(plain)
    if config.executor == "numpy" and not fits:
        raise ConfigError(
            "inference.executor: 'numpy' runs plain MLPs only, and this policy's network is more "
            "than that: use 'auto' or 'torch'."
        )
    if config.executor not in ("auto", "numpy", "torch"):
        raise ConfigError(
            f"inference.executor: expected 'auto', 'numpy' or 'torch', got '{config.executor}'."
        )
    on_cpu = config.device in ("auto", "cpu")
    if fits and (config.executor == "numpy" or (config.executor == "auto" and on_cpu)):
        return NumpyExecutor(network)
    return TorchExecutor(network, pick_device(config.device))


class TorchExecutor:
    """Runs the network itself."""

    few: FewRows | None = None

    def __init__(self, network: PolicyNetwork, device: torch.device):
        self.network = network.to(device).eval()
        self.device = device
        self._log_std: np.ndarray | None = None
        self._read_log_std()

    def vector(self, obs: Leaves) -> np.ndarray:
        raise TypeError("there is no vector where there is no `few`")

    @torch.inference_mode()
    def __call__(self, obs: Leaves) -> np.ndarray:
        tensors = [torch.from_numpy(_own(leaf)).to(self.device) for leaf in obs]
        # A network of the user's may answer with a part of something larger.
        return np.ascontiguousarray(self.network.policy(tensors).float().cpu().numpy())

    @property
    def log_std(self) -> np.ndarray | None:
        return self._log_std

    def load(self, weights: np.ndarray) -> None:
        if can_view(self.network):  # however large: the loop does not wait for a copy
            view_flat(self.network, weights)
        else:
            load_flat(self.network, weights)
        self._read_log_std()

    def _read_log_std(self) -> None:
        log_std = self.network.log_std
        self._log_std = None if log_std is None else log_std.detach().float().cpu().numpy().copy()


def _own(leaf: np.ndarray) -> np.ndarray:
    """torch wants memory it could write to."""
    return leaf if leaf.flags.writeable else leaf.copy()


_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": lambda x: np.tanh(x, out=x),
    "relu": lambda x: np.maximum(x, 0.0, out=x),
    "leaky_relu": lambda x: np.where(x > 0, x, np.float32(0.01) * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "silu": lambda x: x / (1.0 + np.exp(np.minimum(-x, np.float32(80.0)))),
    "identity": lambda x: x,
}


class NumpyExecutor:
    """Runs a plain MLP layer by layer in NumPy; a handful of rows in one compiled call."""

    def __init__(self, network: PolicyNetwork):
        self.network = network.cpu().eval()
        self.load(None)

    @staticmethod
    def fits(plain: PlainPolicy) -> bool:
        return all(layer.activation in _ACTIVATIONS for layer in plain.layers)

    def vector(self, obs: Leaves) -> np.ndarray:
        if len(obs) == 1:
            return self._recipe[0].numpy(obs[0])
        parts = [part.numpy(leaf) for part, leaf in zip(self._recipe, obs, strict=True)]
        return np.concatenate(parts, axis=1)

    def __call__(self, obs: Leaves) -> np.ndarray:
        x = self.vector(obs)
        if self.few is not None and len(x) <= FEW:
            return self.few(x)
        for weight, bias, activation, norm in self._layers:
            x = x @ weight
            x += bias
            if norm is not None:
                scale, shift, eps = norm
                x -= x.mean(axis=1, keepdims=True)
                x /= np.sqrt((x * x).mean(axis=1, keepdims=True) + eps)
                x *= scale
                x += shift
            x = activation(x)
        return x

    @property
    def log_std(self) -> np.ndarray | None:
        return self._log_std

    def load(self, weights: np.ndarray | None) -> None:
        if weights is not None:
            view_flat(self.network, weights)
        plain = self.network.policy_layers()
        assert plain is not None
        self._recipe = plain.recipe
        self._layers = [_layer(layer) for layer in plain.layers]
        self.few = FewRows(plain.layers) if FewRows.fits(plain.layers) else None
        log_std = self.network.log_std
        self._log_std = None if log_std is None else log_std.detach().numpy().copy()


LARGE = 1 << 16
"""Numbers of a layer beyond which BLAS gets its weights as they lie: a transposed copy at every
publication would keep the loop from serving."""

_NumpyLayer = tuple[
    np.ndarray,
    np.ndarray,
    Callable[[np.ndarray], np.ndarray],
    tuple[np.ndarray, np.ndarray, float] | None,
]


def _layer(layer: DenseLayer) -> _NumpyLayer:
    norm = None
    if layer.layer_norm is not None:
        scale, shift, eps = layer.layer_norm
        norm = (scale.numpy().copy(), shift.numpy().copy(), eps)
    weight = layer.weight.numpy().T
    if weight.size <= LARGE:
        weight = np.ascontiguousarray(weight)
    return weight, layer.bias.numpy().copy(), _ACTIVATIONS[layer.activation], norm
