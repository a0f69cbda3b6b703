"""Dense layers in NumPy, read from a flat snapshot without a look at the network.

Where a layer's numbers lie in the snapshot is found out once; to read 100 layers from the next
one takes 0.2 ms. Through the network's tensors it was 1.5 ms, and up to 4 on caches that others
have used, in which nobody is served (`policy-server bench --workloads W8`).

Lives on the gateway's thread.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from policy_server.networks.mlp import DenseLayer


class NumpyLayer(NamedTuple):
    """What a `DenseLayer` computes: activation(norm(weight x + bias)).

    Attributes:
        weight: float32 `[outputs, inputs]`.
        bias: float32 `[outputs]`.
        layer_norm: (scale `[outputs]`, shift `[outputs]`, epsilon), or None.
    """

    weight: np.ndarray
    bias: np.ndarray
    activation: str
    layer_norm: tuple[np.ndarray, np.ndarray, float] | None


class Place(NamedTuple):
    """Where a tensor's numbers lie in a snapshot."""

    start: int
    end: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Place:
        """Of a tensor that is a view of a whole snapshot (`WeightViews.show`)."""
        start = int(tensor.storage_offset())
        return cls(start, start + tensor.numel(), tuple(tensor.shape))

    def read(self, snapshot: np.ndarray) -> np.ndarray:
        """The numbers where they lie; `snapshot` is float32 `[P]`."""
        return snapshot[self.start : self.end].reshape(self.shape)


class LayerPlace(NamedTuple):
    """Where a layer's numbers lie."""

    weight: Place
    bias: Place
    activation: str
    layer_norm: tuple[Place, Place, float] | None

    @classmethod
    def of(cls, layer: DenseLayer) -> LayerPlace:
        """Of a layer whose tensors are views of a whole snapshot."""
        norm = None
        if layer.layer_norm is not None:
            scale, shift, eps = layer.layer_norm
            norm = (Place.of(scale), Place.of(shift), eps)
        return cls(Place.of(layer.weight), Place.of(layer.bias), layer.activation, norm)

    def read(self, snapshot: np.ndarray) -> NumpyLayer:
        """The layer where it lies; `snapshot` is float32 `[P]`."""
        norm = None
        if self.layer_norm is not None:
            scale, shift, eps = self.layer_norm
            norm = (scale.read(snapshot), shift.read(snapshot), eps)
        weight, bias = self.weight.read(snapshot), self.bias.read(snapshot)
        return NumpyLayer(weight, bias, self.activation, norm)
