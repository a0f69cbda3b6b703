"""A network's numbers as one flat vector: the form in which weights travel."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from policy_server.errors import CheckpointError


def own_tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, then buffers of floats, each in the order of definition."""
    yield from module.parameters()
    for buffer in module.buffers():
        if buffer.is_floating_point():
            yield buffer


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """Their numbers, without history."""
    for tensor in own_tensors(module):
        yield tensor.detach()


def parameter_count(module: nn.Module) -> int:
    """Length of the flat vector, P."""
    return sum(tensor.numel() for tensor in _tensors(module))


def flatten_parameters(module: nn.Module) -> np.ndarray:
    """A copy of all parameters and float buffers: float32 `[P]`, read-only, since whoever gets it
    may hold on to it."""
    with torch.no_grad():
        flat = [tensor.reshape(-1).float() for tensor in _tensors(module)]
        joined = torch.cat(flat) if flat else torch.zeros(0)
    vector: np.ndarray = joined.cpu().numpy()
    vector.flags.writeable = False
    return vector


def learned(module: nn.Module) -> np.ndarray:
    """Which numbers of the flat vector are of parameters that learn: bool[P]."""
    parts = [np.full(t.numel(), t.requires_grad, bool) for t in own_tensors(module)]
    return np.concatenate([np.zeros(0, bool), *parts])


def flat_view(module: nn.Module) -> np.ndarray | None:
    """The same without copying, where the numbers lie side by side already, as an optimiser over
    one vector leaves them: float32 `[P]`, read-only, the network's own memory. Else None."""
    tensors = list(_tensors(module))
    if not tensors:
        return None
    first, end = tensors[0], tensors[0].data_ptr()
    for tensor in tensors:
        fits = tensor.dtype == torch.float32 and tensor.device.type == "cpu"
        if not (fits and tensor.is_contiguous() and tensor.data_ptr() == end):
            return None
        end += 4 * tensor.numel()
    if end - first.data_ptr() > first.untyped_storage().nbytes() - 4 * first.storage_offset():
        return None  # neighbours by chance
    flat: np.ndarray = first.as_strided((parameter_count(module),), (1,)).numpy()
    flat.flags.writeable = False
    return flat


def load_flat(module: nn.Module, vector: np.ndarray) -> None:
    """Writes a vector of `flatten_parameters` into `module`, in place.

    Raises:
        CheckpointError: it belongs to a network of another size.
    """
    check_vector(vector, parameter_count(module))
    with torch.no_grad():
        start = 0
        flat = borrowed(vector)
        for tensor in _tensors(module):
            tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))
            start += tensor.numel()


def check_vector(vector: np.ndarray, expected: int) -> None:
    """Raises CheckpointError unless it is a vector of so many float32."""
    if vector.shape != (expected,) or vector.dtype != np.float32:
        raise CheckpointError(
            f"Weights: expected a vector of {expected} float32 for this network, got shape "
            f"{list(vector.shape)} of {vector.dtype}: it belongs to another model or other spaces."
        )


def kept(vector: np.ndarray) -> np.ndarray:
    """A published vector to hold on to: itself where nobody can write to it, else a copy."""
    if vector.flags.writeable:
        vector = vector.copy()
        vector.flags.writeable = False
    return vector


def borrowed(array: np.ndarray) -> torch.Tensor:
    """The same memory as a tensor, to be read only: arrays from an object store are read-only,
    about which torch warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


_WIDER = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}  # torch cannot index these


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor to be read only: the same memory, where torch knows the dtype."""
    array = array.astype(_WIDER.get(array.dtype.name, array.dtype), copy=False)
    return borrowed(np.ascontiguousarray(array))
