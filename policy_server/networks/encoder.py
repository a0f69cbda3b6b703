"""A whole observation, leaf by leaf -> one feature vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from policy_server.config import ModelConfig
from policy_server.errors import ConfigError, UnsupportedSpaceError
from policy_server.networks.conv import Filters, ImageEncoder, default_filters
from policy_server.networks.flatten import VectorPart, is_image
from sim_clients.protocol.spaces import Leaf, Space, leaves


class ObservationEncoder(nn.Module):
    """Images through convolutions, everything else flattened, all side by side.

    Shapes: one tensor `[n, *leaf.shape]` per leaf -> float32 `[n, outputs]`.

    Attributes:
        outputs: features per observation.
        plain: nothing is learned here; the features are the flattened leaves.
    """

    def __init__(self, space: Space, model: ModelConfig):
        super().__init__()
        if model.custom is not None:
            raise ConfigError(
                f"model.custom = {model.custom!r}: expected an algorithm with a place for it; the "
                "networks of this one are its own. Leave it out, or choose another algorithm."
            )
        parts: list[ImageEncoder | VectorPart] = []
        for path, leaf in leaves(space):
            filters = _filters(leaf, model)
            if filters:
                activation = model.conv_activation or model.activation
                parts.append(ImageEncoder(leaf, filters, activation, path))
            else:
                parts.append(VectorPart(leaf))
        self.parts = nn.ModuleList(parts)
        self.outputs = sum(
            part.outputs if isinstance(part, ImageEncoder) else part.width for part in parts
        )
        if self.outputs == 0:
            raise UnsupportedSpaceError(
                "Observation space: expected at least one number per observation, got none: "
                "a policy needs something to look at (send a constant if there is nothing)."
            )
        self.plain = all(isinstance(part, VectorPart) for part in parts)

    def forward(self, obs: Sequence[torch.Tensor]) -> torch.Tensor:
        features = [part(leaf) for part, leaf in zip(self.parts, obs, strict=True)]
        return features[0] if len(features) == 1 else torch.cat(features, dim=1)

    def recipe(self) -> list[VectorPart] | None:
        """How each leaf becomes numbers; None where convolutions take part."""
        if not self.plain:
            return None
        return [part for part in self.parts if isinstance(part, VectorPart)]


def _filters(leaf: Leaf, model: ModelConfig) -> Filters:
    if not is_image(leaf):
        return ()
    if model.conv_filters is None:
        return default_filters(*leaf.shape[:2])
    return model.conv_filters
