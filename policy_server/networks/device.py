"""Where a network lives."""

from __future__ import annotations

import torch

from policy_server.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """ "auto" is the GPU where there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f'device: expected "auto", "cpu", "cuda" or "cuda:N", got {name!r}.'
        ) from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(
            f"device: expected one of the {count} GPUs of this machine, got {name!r}: "
            'use "auto" or "cpu".'
        )
    return device
