"""A plain MLP without torch.

Lives on the gateway's thread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from policy_server.inference.few_rows import FEW, FewRows
from policy_server.networks.mlp import DenseLayer
from policy_server.networks.policy import PlainPolicy, PolicyNetwork
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
        self.network = network.cpu().eval()
        self._views = WeightViews(self.network)
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
            self._views.show(weights)
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
