"""Networks and random numbers as a checkpoint keeps them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from policy_server.algorithms.optimizer import FlatAdam
from policy_server.errors import CheckpointError
from policy_server.types import PolicyState


def network_tensors(network: nn.Module, name: str = "network") -> dict[str, np.ndarray]:
    """Copies of all parameters and buffers, as "name.parameter"."""
    return {
        f"{name}.{part}": tensor.detach().cpu().numpy().copy()
        for part, tensor in network.state_dict().items()
    }


def load_network(network: nn.Module, state: PolicyState, name: str = "network") -> None:
    """Writes what `network_tensors` gave into `network`.

    Raises:
        CheckpointError: it belongs to another network.
    """
    prefix = f"{name}."
    stored = {
        part.removeprefix(prefix): torch.tensor(array)
        for part, array in state.tensors.items()
        if part.startswith(prefix)
    }
    try:
        network.load_state_dict(stored)
    except RuntimeError as error:
        told = str(error).splitlines()[1:] or [str(error)]  # behind a line that says where
        reason = textwrap.shorten(told[0].rstrip(". "), 200, placeholder=" ...")
        raise CheckpointError(
            f"The stored {name} does not fit this one ({reason}): set the model, training and "
            "preprocessing that it was trained with, and give it the same spaces."
        ) from error


def tensors_of(
    networks: Mapping[str, nn.Module], optimizers: Mapping[str, FlatAdam]
) -> dict[str, np.ndarray]:
    """All of them, by their names, of which none begins another."""
    tensors: dict[str, np.ndarray] = {}
    for name, network in networks.items():
        tensors |= network_tensors(network, name)
    for name, optimizer in optimizers.items():
        tensors |= optimizer.state(name)
    return tensors


def load_tensors(
    state: PolicyState, networks: Mapping[str, nn.Module], optimizers: Mapping[str, FlatAdam]
) -> None:
    """Goes on from what `tensors_of` gave.

    Raises:
        CheckpointError: it does not fit.
    """
    for name, network in networks.items():
        load_network(network, state, name)
    for name, optimizer in optimizers.items():
        optimizer.load(state.tensors, name)


def generator_text(generator: torch.Generator) -> str:
    """A generator's state as text."""
    return bytes(generator.get_state().tolist()).hex()


def load_generator(generator: torch.Generator, text: str) -> None:
    """Goes on from what `generator_text` gave."""
    generator.set_state(torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8))
