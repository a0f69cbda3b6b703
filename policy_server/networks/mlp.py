"""Dense layers, and the activations and initial weights of all networks."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from policy_server.errors import ConfigError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    # In place: bit for bit the same, and 2 % of an update of minibatches of 512 rows.
    "relu": functools.partial(nn.ReLU, inplace=True),
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}
HIDDEN_GAIN = math.sqrt(2.0)


def make_activation(name: str, option: str = "model.activation") -> nn.Module:
    """The module behind an activation's name.

    Raises:
        ConfigError: no such activation; names `option`.
    """
    if name not in ACTIVATIONS:
        close = difflib.get_close_matches(str(name), ACTIVATIONS, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"{option}: expected one of {', '.join(ACTIVATIONS)}, got {name!r}.{hint}"
        )
    return ACTIVATIONS[name]()


def orthogonal(layer: nn.Linear | nn.Conv2d, gain: float) -> None:
    """Orthogonal weights, no bias.

    Source: Saxe, McClelland, Ganguli: https://arxiv.org/abs/1312.6120.
    """
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def linear(inputs: int, outputs: int, gain: float | None) -> nn.Linear:
    """A dense layer with orthogonal weights and no bias at first; without a gain, with both uniform
    in +-1 / sqrt(inputs).

    Source: Lillicrap et al., https://arxiv.org/abs/1509.02971, section 7; torch has it so.
    """
    layer = nn.Linear(inputs, outputs)
    if gain is not None:
        orthogonal(layer, gain)
    return layer


class DenseLayer(NamedTuple):
    """What one dense layer computes: activation(norm(weight x + bias)).

    The tensors are the network's own, not copies: in-place updates show through.

    Attributes:
        weight: float32 `[outputs, inputs]`.
        bias: float32 `[outputs]`.
        activation: a name of `ACTIVATIONS`, or "identity".
        layer_norm: (scale `[outputs]`, shift `[outputs]`, epsilon), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    activation: str
    layer_norm: tuple[torch.Tensor, torch.Tensor, float] | None


class MLP(nn.Module):
    """Hidden layers: dense, layer norm if asked for, activation.

    Shapes: `[n, inputs]` -> `[n, outputs]`; the identity if `hidden` is empty.
    """

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        activation: str,
        layer_norm: bool,
        gain: float | None = HIDDEN_GAIN,
    ):
        """`gain`: as in `linear`."""
        super().__init__()
        self.activation = activation
        self.outputs = hidden[-1] if hidden else inputs
        parts: list[nn.Module] = []
        for units in hidden:
            parts.append(linear(inputs, units, gain))
            if layer_norm:
                parts.append(nn.LayerNorm(units))
            parts.append(make_activation(activation))
            inputs = units
        self.layers = nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(x)
        return result

    def dense_layers(self) -> list[DenseLayer]:
        """The layers one by one, for executors that do without torch."""
        found: list[DenseLayer] = []
        for part in self.layers:
            if isinstance(part, nn.Linear):
                found.append(dense_layer(part, self.activation))
            elif isinstance(part, nn.LayerNorm):
                norm = (part.weight.detach(), part.bias.detach(), part.eps)
                found[-1] = found[-1]._replace(layer_norm=norm)
        return found


def dense_layer(layer: nn.Linear, activation: str) -> DenseLayer:
    """One layer without norm."""
    return DenseLayer(layer.weight.detach(), layer.bias.detach(), activation, None)
