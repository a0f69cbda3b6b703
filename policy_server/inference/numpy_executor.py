"""A plain MLP without torch.

Lives on the gateway's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from policy_server.inference.few_rows import FEW, FewRows
from policy_server.inference.layer_places import LayerPlace, Place
from policy_server.inference.numpy_layer import NumpyLayer
from policy_server.networks.policy import ActingNetwork, PlainPolicy
from policy_server.networks.snapshot import check_vector, flatten_parameters, kept
from policy_server.networks.weight_views import WeightViews
from policy_server.types import Leaves

_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": lambda x: np.tanh(x, out=x),
    "relu": lambda x: np.maximum(x, 0.0, out=x),
    "leaky_relu": lambda x: np.where(x > 0, x, np.float32(0.01) * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "silu": lambda x: x / (1.0 + np.exp(np.minimum(-x, np.float32(80.0)))),
    "identity": lambda x: x,
}


class NumpyExecutor:
    """Runs a plain MLP layer by layer in NumPy; a handful of rows in one compiled call.

    The network it is made from is used up: its tensors become views of read-only memory, which
    say where each of them lies in a snapshot.
    """

    def __init__(self, network: ActingNetwork):
        snapshot = flatten_parameters(network)
        WeightViews(network.cpu()).show(snapshot)
        plain, log_std = network.policy_layers(), network.log_std
        assert plain is not None
        self._recipe = plain.recipe
        self._places = [LayerPlace.of(layer, snapshot) for layer in plain.layers]
        self._log_std_place = None if log_std is None else Place.of(log_std, snapshot)
        self._size = len(snapshot)
        self.load(snapshot)

    @staticmethod
    def fits(plain: PlainPolicy) -> bool:
        return all(layer.activation in _ACTIVATIONS for layer in plain.layers)

    def step(self, obs: Leaves, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise TypeError("a plain network has no memory")

    def vector(self, obs: Leaves) -> np.ndarray:
        if len(obs) == 1:
            return self._recipe[0].numpy(obs[0])
        parts = [part.numpy(leaf) for part, leaf in zip(self._recipe, obs, strict=True)]
        return np.concatenate(parts, axis=1)

    def __call__(self, obs: Leaves) -> np.ndarray:
        x = self.vector(obs)
        if self.few is not None and len(x) <= FEW:
            return self.few(x)
        for layer in self._layers:
            x = x @ layer.factors
            x += layer.bias
            if layer.norm is not None:
                scale, shift, eps = layer.norm
                x -= x.mean(axis=1, keepdims=True)
                x /= np.sqrt((x * x).mean(axis=1, keepdims=True) + eps)
                x *= scale
                x += shift
            x = layer.activation(x)
        return x

    @property
    def log_std(self) -> np.ndarray | None:
        return self._log_std

    def load(self, weights: np.ndarray) -> None:
        check_vector(weights, self._size)
        self._weights = weights = kept(weights)
        layers = [place.read(weights) for place in self._places]
        self._layers = [_prepared(layer) for layer in layers]
        self.few = FewRows(layers) if FewRows.fits(layers) else None
        place = self._log_std_place
        self._log_std = None if place is None else place.read(weights).copy()

    def weights(self) -> np.ndarray:
        return self._weights


LARGE = 1 << 16
"""Numbers of a layer beyond which BLAS gets its weights as they lie: a transposed copy at every
publication would keep the loop from serving."""


class _Step(NamedTuple):
    """A layer as a batch of rows goes through it.

    Attributes:
        factors: float32 `[inputs, outputs]`.
    """

    factors: np.ndarray
    bias: np.ndarray
    activation: Callable[[np.ndarray], np.ndarray]
    norm: tuple[np.ndarray, np.ndarray, float] | None


def _prepared(layer: NumpyLayer) -> _Step:
    factors = layer.weight.T
    if factors.size <= LARGE:
        factors = np.ascontiguousarray(factors)
    return _Step(factors, layer.bias, _ACTIVATIONS[layer.activation], layer.layer_norm)
