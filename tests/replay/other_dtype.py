"""Observations of another dtype than those of a stored buffer."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from policy_server.errors import CheckpointError
from policy_server.types import Batch


def refuses_halves(buffer: Any, batch: Batch) -> None:
    """`buffer` holds float32, and says so when these observations come as float16."""
    obs, final_obs = (
        tuple(leaf.astype(np.float16) for leaf in leaves) for leaves in (batch.obs, batch.final_obs)
    )
    with pytest.raises(CheckpointError, match="as float32, and now they come as float16: set the"):
        buffer.insert(dataclasses.replace(batch, obs=obs, final_obs=final_obs), batch.rewards)
