"""Weights that are taken over without being copied."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from policy_server.networks.snapshot import borrowed, check_size, own_tensors


class WeightViews:
    """A network that only acts, on numbers that lie elsewhere: its parameters and float buffers
    become views of the vector that was published last.

    Takes as long for a hundred million numbers as for a thousand. What there is to know of the
    network is looked up once: of 100 layers that was two thirds of every `show`. Nothing may
    write to the parameters afterwards.

    Attributes:
        possible: all of them are float32 on the CPU; else `show` must not be called.
    """

    def __init__(self, module: nn.Module):
        self._tensors = list(own_tensors(module))
        self._shapes = [tensor.shape for tensor in self._tensors]
        self._sizes = [tensor.numel() for tensor in self._tensors]
        self.possible = all(
            tensor.dtype == torch.float32 and tensor.device.type == "cpu"
            for tensor in self._tensors
        )

    def show(self, vector: np.ndarray) -> None:
        """Takes over what `flatten_parameters` gave: float32 `[P]`.

        Raises:
            CheckpointError: it belongs to a network of another size.
        """
        check_size(vector, sum(self._sizes))
        parts = torch.split(borrowed(vector), self._sizes)
        for tensor, part, shape in zip(self._tensors, parts, self._shapes, strict=True):
            tensor.data = part.view(shape)
