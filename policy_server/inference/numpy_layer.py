"""A dense layer without torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class NumpyLayer(NamedTuple):
    """What `networks.mlp.DenseLayer` computes: activation(norm(weight x + bias)).

    Attributes:
        weight: float32 `[outputs, inputs]`.
        bias: float32 `[outputs]`.
        layer_norm: (scale `[outputs]`, shift `[outputs]`, epsilon), or None.
    """

    weight: np.ndarray
    bias: np.ndarray
    activation: str
    layer_norm: tuple[np.ndarray, np.ndarray, float] | None
