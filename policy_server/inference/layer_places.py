"""Where the layers of a network lie in a flat snapshot, so that they are read without torch.

Looked up once. To take over the next weights of 100 layers so takes 0.4 ms; copied into the
network's tensors it is 4.6, in which nobody is served (`policy-server bench --workloads parts`).

Lives on the gateway's thread.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from policy_server.inference.numpy_layer import NumpyLayer
from policy_server.networks.mlp import DenseLayer


class Place(NamedTuple):
    """Where a tensor's numbers lie in a snapshot."""

    start: int
    end: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor, snapshot: np.ndarray) -> Place:
        """Of a tensor that is a view of a whole snapshot (`WeightViews.show`).

        Raises:
            ValueError: it is not, or not as it lies there.
        """
        base = snapshot.__array_interface__["data"][0]
        start, over = divmod(tensor.data_ptr() - base, snapshot.itemsize)
        end = start + tensor.numel()
        within = over == 0 and start >= 0 and end <= len(snapshot)
        if not (within and tensor.is_contiguous() and tensor.dtype == torch.float32):
            raise ValueError(
                "policy_layers: expected tensors that are the network's own parameters as they "
                f"are, got one of shape {list(tensor.shape)} that was computed or turned: answer "
                "None, and torch runs the network."
            )
        return cls(start, end, tuple(tensor.shape))

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
    def of(cls, layer: DenseLayer, snapshot: np.ndarray) -> LayerPlace:
        """Of a layer whose tensors are views of a whole snapshot. Raises as `Place.of`."""
        norm = None
        if layer.layer_norm is not None:
            scale, shift, eps = layer.layer_norm
            norm = (Place.of(scale, snapshot), Place.of(shift, snapshot), eps)
        weight, bias = Place.of(layer.weight, snapshot), Place.of(layer.bias, snapshot)
        return cls(weight, bias, layer.activation, norm)

    def read(self, snapshot: np.ndarray) -> NumpyLayer:
        """The layer where it lies; `snapshot` is float32 `[P]`."""
        norm = None
        if self.layer_norm is not None:
            scale, shift, eps = self.layer_norm
            norm = (scale.read(snapshot), shift.read(snapshot), eps)
        weight, bias = self.weight.read(snapshot), self.bias.read(snapshot)
        return NumpyLayer(weight, bias, self.activation, norm)
