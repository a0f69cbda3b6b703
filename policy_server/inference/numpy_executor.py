"""A plain MLP without torch.

Lives on the gateway's thread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from policy_server.inference.few_rows import FEW, FewRows
from policy_server.inference.layer_places import LayerPlace, NumpyLayer, Place
from policy_server.networks.policy import PlainPolicy, PolicyNetwork
from policy_server.networks.snapshot import check_size, flatten_parameters
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
    """Runs a plain MLP layer by layer in NumPy; a handful of rows in one compiled call."""

    def __init__(self, network: PolicyNetwork):
        snapshot = flatten_parameters(network)
        snapshot.flags.writeable = False
        WeightViews(network.cpu().eval()).show(snapshot)  # now every tensor knows its place
        plain, log_std = network.policy_layers(), network.log_std
        assert plain is not None
        self._recipe = plain.recipe
        self._places = [LayerPlace.of(layer) for layer in plain.layers]
        self._log_std_place = None if log_std is None else Place.of(log_std)
        self._size = len(snapshot)
        self.load(snapshot)

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

    def load(self, weights: np.ndarray) -> None:
        check_size(weights, self._size)
        self._weights = weights
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


def _prepared(
    layer: NumpyLayer,
) -> tuple[
    np.ndarray,
    np.ndarray,
    Callable[[np.ndarray], np.ndarray],
    tuple[np.ndarray, np.ndarray, float] | None,
]:
    """As `NumpyExecutor` needs it: weight `[inputs, outputs]`, bias, activation, norm."""
    weight = layer.weight.T
    if weight.size <= LARGE:
        weight = np.ascontiguousarray(weight)
    return weight, layer.bias, _ACTIVATIONS[layer.activation], layer.layer_norm
