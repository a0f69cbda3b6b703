"""Images -> features: convolutions over one image leaf."""

from __future__ import annotations

import math

import torch
from torch import nn

from policy_server.errors import UnsupportedSpaceError
from policy_server.networks.flatten import byte_scale
from policy_server.networks.mlp import HIDDEN_GAIN, make_activation, orthogonal
from sim_clients.protocol.spaces import Leaf

Filters = tuple[tuple[int, int, int], ...]
"""(channels, kernel, stride) of each convolution."""


def default_filters(height: int, width: int) -> Filters:
    """Filters that suit an image, chosen by its smaller side.

    ======  =============================================================================
    pixels  filters
    ======  =============================================================================
    >= 36   (32, 8, 4) (64, 4, 2) (64, 3, 1): Mnih et al., Nature 518, 2015
    12..35  (32, 4, 2) (64, 4, 2)
    3..11   (32, 3, 1): grid worlds, where single pixels matter
    < 3     none: the image is taken as a vector
    ======  =============================================================================
    """
    side = min(height, width)
    if side >= 36:
        return ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    if side >= 12:
        return ((32, 4, 2), (64, 4, 2))
    return ((32, 3, 1),) if side >= 3 else ()


def output_sizes(
    height: int, width: int, filters: Filters, path: str = ""
) -> list[tuple[int, int]]:
    """(height, width) before the first and behind each convolution, without padding.

    Raises:
        UnsupportedSpaceError: a kernel is larger than what it should look at.
    """
    sizes = [(height, width)]
    for channels, kernel, stride in filters:
        height, width = sizes[-1]
        if kernel > min(height, width):
            seen = " -> ".join(f"{h}x{w}" for h, w in sizes)
            raise UnsupportedSpaceError(
                f"model.conv_filters: filter ({channels}, {kernel}, {stride}) expects at least "
                f"{kernel}x{kernel} pixels, but observation{path} has only {height}x{width} left "
                f"there ({seen}): use fewer or smaller filters, or larger images."
            )
        sizes.append(((height - kernel) // stride + 1, (width - kernel) // stride + 1))
    return sizes


class ImageEncoder(nn.Module):
    """Convolutions without padding, each followed by its activation.

    Shapes: `[n, H, W, C]` -> float32 `[n, outputs]`. uint8 is scaled to 0..1, floats are taken
    as they come.

    Raises:
        UnsupportedSpaceError: the filters do not fit the image.
    """

    def __init__(self, leaf: Leaf, filters: Filters, activation: str, path: str = ""):
        super().__init__()
        height, width, channels = leaf.shape
        last = output_sizes(height, width, filters, path)[-1]
        self.scale = byte_scale(leaf)
        parts: list[nn.Module] = []
        for outputs, kernel, stride in filters:
            conv = nn.Conv2d(channels, outputs, kernel, stride)
            orthogonal(conv, HIDDEN_GAIN)
            parts += [conv, make_activation(activation, "model.conv_activation")]
            channels = outputs
        self.layers = nn.Sequential(*parts)
        self.outputs = math.prod(last) * channels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # Channels stay last in memory all the way: no copy here, nor in the flattening.
        x = self.as_channels(image).contiguous(memory_format=torch.channels_last)
        return self.as_features(self.layers(x))

    def as_channels(self, image: torch.Tensor) -> torch.Tensor:
        """What the convolutions see: `[n, H, W, C]` -> float32 `[n, C, H, W]`."""
        x: torch.Tensor = image.permute(0, 3, 1, 2).float()
        return x if self.scale == 1.0 else x * self.scale

    def as_features(self, x: torch.Tensor) -> torch.Tensor:
        """What they gave, flattened: `[n, C, H, W]` -> `[n, outputs]`."""
        return x.permute(0, 2, 3, 1).reshape(len(x), self.outputs)
