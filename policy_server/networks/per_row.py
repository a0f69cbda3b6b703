"""One forward pass for rows that each have parameters of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import conv2d

from policy_server.networks.actor import ActorNetwork
from policy_server.networks.conv import ImageEncoder
from policy_server.networks.encoder import ObservationEncoder
from policy_server.networks.policy import Observations
from policy_server.networks.snapshot import own_tensors


class _Step(NamedTuple):
    """A layer, and which of the network's tensors is its weight (the next is its bias); None: it
    has none."""

    layer: nn.Module
    weight: int | None


def per_row(actor: ActorNetwork) -> PerRowActor | RowByRow:
    """The fastest way through an actor. It is used up: its tensors may show other numbers.

    Shapes: rows float32 `[n, P]`, each a flat snapshot of the actor; observations of n -> heads
    `[n, H]`.
    """
    ours = isinstance(actor.encoder, ObservationEncoder)
    return PerRowActor(actor) if ours else RowByRow(actor)


class RowByRow:
    """An actor with a module of the user's own, which may do anything: one row after the other."""

    def __init__(self, actor: ActorNetwork):
        self._actor = actor
        self._tensors = list(own_tensors(actor))
        self._sizes = [tensor.numel() for tensor in self._tensors]

    def __call__(self, rows: torch.Tensor, obs: Observations) -> torch.Tensor:
        """As `per_row` says."""
        heads = []
        for i, row in enumerate(rows):
            parts = torch.split(row, self._sizes)
            for tensor, part in zip(self._tensors, parts, strict=True):
                tensor.data = part.view(tensor.shape)
            heads.append(self._actor.policy([leaf[i : i + 1] for leaf in obs]))
        return torch.cat(heads)


class PerRowActor:
    """An actor of our own layers, which are batched products of each row with its weights.

    Raises:
        TypeError: a layer that is not known here.
    """

    def __init__(self, actor: ActorNetwork):
        assert isinstance(actor.encoder, ObservationEncoder)
        parameters = list(actor.parameters())
        self._sizes = [p.numel() for p in parameters]
        self._shapes = [p.shape for p in parameters]
        places = {id(p): place for place, p in enumerate(parameters)}
        self._parts = [
            (part, _steps(part.layers, places) if isinstance(part, ImageEncoder) else [])
            for part in actor.encoder.parts
        ]
        self._steps = _steps([*actor.body.layers, actor.head], places)
        self._squash = actor.squash

    def __call__(self, rows: torch.Tensor, obs: Observations) -> torch.Tensor:
        """As `per_row` says."""
        flat = zip(torch.split(rows, self._sizes, 1), self._shapes, strict=True)
        own = [part.reshape(len(rows), *shape) for part, shape in flat]
        features = []
        for (part, steps), leaf in zip(self._parts, obs, strict=True):
            if isinstance(part, ImageEncoder):
                features.append(part.as_features(_run(steps, own, part.as_channels(leaf))))
            else:
                features.append(part(leaf))
        x = features[0] if len(features) == 1 else torch.cat(features, dim=1)
        head = _run(self._steps, own, x)
        return torch.tanh(head) if self._squash else head


def _steps(layers: Iterable[nn.Module], places: dict[int, int]) -> list[_Step]:
    steps = []
    for layer in layers:
        tensors = list(layer.parameters())
        if tensors and not isinstance(layer, (nn.Linear, nn.LayerNorm, nn.Conv2d)):
            raise TypeError(f"expected a dense layer, a convolution or a layer norm, got {layer}")
        assert len(tensors) in (0, 2), "weight and bias"
        steps.append(_Step(layer, places[id(tensors[0])] if tensors else None))
    return steps


def _run(steps: list[_Step], own: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """`[n, ...]` -> `[n, ...]`; row i by `own[...][i]`."""
    for layer, place in steps:
        if place is None:
            x = layer(x)
            continue
        weight, bias = own[place], own[place + 1]
        if isinstance(layer, nn.Linear):
            x = torch.bmm(x[:, None, :], weight.transpose(1, 2))[:, 0] + bias
        elif isinstance(layer, nn.LayerNorm):
            x = torch.layer_norm(x, layer.normalized_shape, eps=layer.eps) * weight + bias
        else:
            assert isinstance(layer, nn.Conv2d)
            x = _convolution(layer, weight, bias, x)
    return x


def _convolution(
    layer: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """Rows become groups of one convolution. `[n, C, H, W]` -> `[n, C', H', W']`."""
    n, outputs = weight.shape[:2]
    together = x.reshape(1, n * x.shape[1], *x.shape[2:])
    stride = (layer.stride[0], layer.stride[1])
    found = conv2d(together, weight.flatten(0, 1), bias.flatten(), stride, groups=n)
    return found.view(n, outputs, *found.shape[2:])
