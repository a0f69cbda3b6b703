"""A network's numbers as one flat vector: the form in which weights travel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from policy_server.errors import CheckpointError


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, then buffers of floats, each in the order of definition."""
    for name, parameter in module.named_parameters():
        yield name, parameter.detach()
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            yield name, buffer


def parameter_count(module: nn.Module) -> int:
    """Length of the flat vector, P."""
    return sum(tensor.numel() for _, tensor in _tensors(module))


def flatten_parameters(module: nn.Module) -> np.ndarray:
    """A copy of all parameters and float buffers: float32 `[P]`."""
    with torch.no_grad():
        flat = [tensor.reshape(-1).float() for _, tensor in _tensors(module)]
        joined = torch.cat(flat) if flat else torch.zeros(0)
        return joined.cpu().numpy()


def load_flat(module: nn.Module, vector: np.ndarray) -> None:
    """Writes a vector of `flatten_parameters` into `module`, in place.

    Raises:
        CheckpointError: it belongs to a network of another size.
    """
    expected = parameter_count(module)
    if vector.shape != (expected,):
        raise CheckpointError(
            f"Weights: expected a vector of {expected} numbers for this network, got shape "
            f"{list(vector.shape)}: it belongs to another model or other spaces."
        )
    with torch.no_grad():
        start = 0
        # torch refuses to wrap read-only memory without a warning; a copy is cheap next to it.
        flat = torch.from_numpy(vector if vector.flags.writeable else vector.copy())
        for _, tensor in _tensors(module):
            tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))
            start += tensor.numel()
