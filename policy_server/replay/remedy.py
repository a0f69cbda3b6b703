"""What an operator is told about a stored replay buffer that does not fit."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from policy_server.errors import CheckpointError
from policy_server.networks.snapshot import as_tensor
from policy_server.types import Leaves

WITHOUT = "start without it (training.save_replay = false)"


def check_dtypes(stored: Iterable[torch.Tensor], leaves: Leaves) -> None:
    """Whether observations that come, `[any, ...]` each, are kept as those that are there.

    Raises:
        CheckpointError: they are not; only a stored buffer can be of another kind.
    """
    for column, leaf in zip(stored, leaves, strict=True):
        came = as_tensor(leaf[:0]).dtype
        if column.dtype != came:
            there, now = (str(dtype).removeprefix("torch.") for dtype in (column.dtype, came))
            raise CheckpointError(
                f"the stored replay buffer holds observations as {there}, and now they come as {now}: "
                f"set the same preprocessing (storage_dtype, normalize_observations), or {WITHOUT}."
            )
