"""Weights that are taken over without being copied."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from policy_server.networks.snapshot import borrowed, check_vector, kept, own_tensors


class WeightViews:
    """A network that only acts, on numbers that lie elsewhere: its parameters and float buffers
    become views of the vector that was published last.

    Takes as long for a hundred million numbers as for a thousand. What there is to know of the
    network is looked up once: 100 layers for policy and value each take 1.3 ms, and 4.6 to copy
    (`policy-server bench --workloads parts`). Nothing may write to the parameters afterwards.

    Attributes:
        possible: all of them are float32 on the CPU; else `show` must not be called.
    """

    def __init__(self, module: nn.Module):
        tensors = list(own_tensors(module))
        self._shapes = [tensor.shape for tensor in tensors]
        self._sizes = [tensor.numel() for tensor in tensors]
        self._homes = _homes(module, tensors)
        self.possible = all(
            tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors
        )

    def show(self, vector: np.ndarray) -> None:
        """Takes over what `flatten_parameters` gave: float32 `[P]`. A vector that somebody can
        write to is copied.

        Raises:
            CheckpointError: it belongs to a network of another size.
        """
        assert self.possible, "the network is not all float32 on the CPU: load_flat copies"
        check_vector(vector, sum(self._sizes))
        parts = torch.split(borrowed(kept(vector)), self._sizes)
        for (home, name), part, shape in zip(self._homes, parts, self._shapes, strict=True):
            home[name].data = part.view(shape)


Home = tuple[dict[str, torch.Tensor], str]
"""A module's parameters or buffers, and the name of one of them."""


def _homes(module: nn.Module, tensors: list[torch.Tensor]) -> list[Home]:
    """Where the module has each tensor: asked there, since a forward pass may put another buffer in
    its place."""
    found: dict[int, Home] = {}
    for part in module.modules():
        for home in (part._parameters, part._buffers):
            for name, tensor in home.items():
                found.setdefault(id(tensor), (home, name))  # type: ignore[arg-type]
    return [found[id(tensor)] for tensor in tensors]
