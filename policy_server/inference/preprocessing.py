"""Observations as sent -> observations as the policy sees and the store keeps them.

One order, always: resize, grayscale, normalise, stack, storage dtype. Choices and bits are
stacked and otherwise left as they are. Simulators send single frames; the stack of each lane
lives here.

Lives on the gateway's thread.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from policy_server.config import PreprocessingConfig
from policy_server.errors import CheckpointError, UnsupportedSpaceError
from policy_server.types import Leaves
from sim_clients.protocol.spaces import (
    Box,
    Dict,
    Discrete,
    Leaf,
    MultiBinary,
    MultiDiscrete,
    Space,
    Tuple,
    leaves,
)

HALF_MAX = 65504.0  # largest finite float16
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def is_image(leaf: Leaf) -> bool:
    """Height x width x channels, or height x width of bytes."""
    rank = len(leaf.shape)
    return isinstance(leaf, Box) and (rank == 3 or (rank == 2 and leaf.dtype == np.uint8))


class RunningMoments:
    """Mean and deviation of everything seen so far, per element.

    Source: Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm, 1979.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.count = 0
        self.mean = np.zeros(shape, np.float64)
        self.squares = np.zeros(shape, np.float64)  # sum of squared distances from the mean

    def add(self, rows: np.ndarray) -> None:
        """`[n, *shape]`, n >= 1."""
        n = len(rows)
        mean = rows.mean(axis=0, dtype=np.float64)
        delta = mean - self.mean
        total = self.count + n
        self.squares += ((rows - mean) ** 2).sum(axis=0) + delta**2 * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total

    def normalize(self, rows: np.ndarray, clip: float) -> np.ndarray:
        """float32 `[n, *shape]`; the identity (clipped) before two rows were seen."""
        if self.count < 2:
            return np.clip(rows, -clip, clip).astype(np.float32)
        deviation = np.sqrt(self.squares / (self.count - 1)) + 1e-8
        return np.clip((rows - self.mean) / deviation, -clip, clip).astype(np.float32)


class LeafPreprocessor:
    """One leaf's way through the preprocessing; a stack per lane if frames are stacked."""

    def __init__(self, path: str, leaf: Leaf, config: PreprocessingConfig):
        self.config = config
        self.image = is_image(leaf)
        shape, dtype = leaf.shape, leaf.dtype
        if self.image and len(shape) == 2:
            shape = (*shape, 1)
        self.resize = self.image and config.resize is not None and shape[:2] != config.resize
        if self.resize:
            assert config.resize is not None
            shape = (*config.resize, shape[2])
        self.grayscale = self.image and config.grayscale and shape[2] != 1
        if self.grayscale:
            if shape[2] != 3:
                raise UnsupportedSpaceError(
                    f"preprocessing.grayscale: expected 3 colour channels in observation{path}, "
                    f"got {shape[2]}: switch it off or send RGB."
                )
            shape = (*shape[:2], 1)
        self.moments: RunningMoments | None = None
        if config.normalize_observations and isinstance(leaf, Box):
            self.moments = RunningMoments(shape)
            dtype = np.dtype(np.float32)
        self.frame = shape
        self.stack = config.frame_stack if math.prod(leaf.shape) else 1
        if self.stack > 1:
            shape = (*shape[:-1], shape[-1] * self.stack) if shape else (self.stack,)
        if dtype.kind == "f":
            dtype = np.dtype(config.storage_dtype or np.float32)
        self.shape, self.dtype = shape, dtype
        self._frames = np.zeros((0, *shape), dtype)  # [lanes, ...] newest last
        self.nothing = (shape, dtype) == (leaf.shape, leaf.dtype) and self.moments is None
        """It goes through as it is."""

    def space(self, leaf: Leaf) -> Leaf:
        """What comes out."""
        if (self.shape, self.dtype) == (leaf.shape, leaf.dtype):
            return leaf
        if isinstance(leaf, MultiBinary):
            return MultiBinary(self.shape, self.dtype)
        if isinstance(leaf, (Discrete, MultiDiscrete)):
            nvec = leaf.n if isinstance(leaf, Discrete) else leaf.nvec
            start = np.tile(leaf.start, self.stack)
            return MultiDiscrete(np.tile(nvec, self.stack), self.dtype, start)
        assert isinstance(leaf, Box)
        if self.dtype.kind == "f":
            bound = self.config.observation_clip if self.moments else math.inf
            return Box(-bound, bound, self.shape, self.dtype)
        if not self.image:
            low, high = (np.tile(bound, self.stack) for bound in (leaf.low, leaf.high))
            return Box(low, high, self.shape, self.dtype)
        if self.dtype.kind == "b":
            return Box(False, True, self.shape, self.dtype)
        return Box(np.iinfo(self.dtype).min, np.iinfo(self.dtype).max, self.shape, self.dtype)

    def add_lanes(self, lanes: int) -> None:
        if self.stack > 1 and lanes > len(self._frames):
            frames = np.zeros((lanes, *self.shape), self.dtype)
            frames[: len(self._frames)] = self._frames
            self._frames = frames

    def _see(self, rows: np.ndarray) -> np.ndarray:
        """Frame by frame, before any stacking."""
        if self.image and rows.ndim == 3:
            rows = rows[..., None]
        if self.resize:
            # Area averaging: each pixel is the mean of the source pixels it covers.
            frames = torch.from_numpy(rows.astype(np.float32)).permute(0, 3, 1, 2)
            frames = torch.nn.functional.interpolate(frames, self.config.resize, mode="area")
            seen = frames.permute(0, 2, 3, 1).numpy()
            rows = np.rint(seen).astype(rows.dtype) if rows.dtype.kind in "uib" else seen
        if self.grayscale:
            gray = rows.astype(np.float32) @ _LUMA
            rows = (np.rint(gray).astype(rows.dtype) if rows.dtype.kind in "uib" else gray)[
                ..., None
            ]
        return rows

    def __call__(
        self, rows: np.ndarray, lanes: np.ndarray, first: np.ndarray, learn: bool
    ) -> np.ndarray:
        """Rows that the lanes see now; advances their stacks. `[n, *leaf.shape]` -> `[n, *shape]`."""
        rows = self._see(rows)
        if self.moments is not None:
            if learn:
                self.moments.add(rows)
            rows = self.moments.normalize(rows, self.config.observation_clip)
        rows = self._stored(rows)
        return self._stacked(rows, lanes, first, True) if self.stack > 1 else rows

    def peek(self, rows: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """The same for observations behind which the lane's episode ends: nothing advances."""
        rows = self._see(rows)
        if self.moments is not None:
            rows = self.moments.normalize(rows, self.config.observation_clip)
        rows = self._stored(rows)
        nobody = np.zeros(len(rows), np.bool_)
        return self._stacked(rows, lanes, nobody, False) if self.stack > 1 else rows

    def _stored(self, rows: np.ndarray) -> np.ndarray:
        """In the dtype of the store; what it cannot hold is clipped to what it can."""
        if self.dtype == np.float16:
            rows = np.clip(rows, -HALF_MAX, HALF_MAX)
        return rows.astype(self.dtype, copy=False)

    def _stacked(
        self, rows: np.ndarray, lanes: np.ndarray, first: np.ndarray, advance: bool
    ) -> np.ndarray:
        """Behind the frames before them, or (first) behind themselves.

        A stack moves on by moving all its numbers by one pixel of one frame; what came over from
        the neighbouring pixel is where the newest frame goes. 5 us for 84x84x4 bytes, where
        moving pixel by pixel takes 38.
        """
        n, width = len(rows), self.frame[-1] if self.frame else 1
        stacked = np.empty((n, *self.shape), self.dtype)
        stacked.reshape(n, -1)[:, :-width] = self._frames[lanes].reshape(n, -1)[:, width:]
        pixels = stacked.reshape(n, -1, self.stack * width)
        pixels[:, :, -width:] = rows.reshape(n, -1, width)
        if first.any():
            pixels[first] = np.tile(rows.reshape(n, -1, width)[first], (1, 1, self.stack))
        if advance:
            self._frames[lanes] = stacked
        return stacked


class Preprocessor:
    """All leaves of one policy's observations.

    Attributes:
        space: what the policy's network sees.
        nothing: they go through as they are.
    """

    def __init__(self, space: Space, config: PreprocessingConfig):
        told = _told(space)
        self._leaves = [
            LeafPreprocessor(path, leaf, PreprocessingConfig() if path == told else config)
            for path, leaf in leaves(space)
        ]
        columns = iter(
            part.space(leaf) for part, (_, leaf) in zip(self._leaves, leaves(space), strict=True)
        )
        self.space = _rebuild(space, columns)
        self.nothing = all(part.nothing for part in self._leaves)

    @property
    def columns(self) -> tuple[tuple[tuple[int, ...], np.dtype], ...]:
        """(shape, dtype) of each column that comes out."""
        return tuple((part.shape, part.dtype) for part in self._leaves)

    def add_lanes(self, lanes: int) -> None:
        """Room for lane numbers below `lanes`."""
        for part in self._leaves:
            part.add_lanes(lanes)

    def __call__(
        self, columns: list[np.ndarray], lanes: np.ndarray, first: np.ndarray, learn: bool
    ) -> Leaves:
        if self.nothing:
            return tuple(columns)
        return tuple(
            part(column, lanes, first, learn)
            for part, column in zip(self._leaves, columns, strict=True)
        )

    def peek(self, columns: list[np.ndarray], lanes: np.ndarray) -> Leaves:
        return tuple(
            part.peek(column, lanes) for part, column in zip(self._leaves, columns, strict=True)
        )

    def state(self) -> dict[str, np.ndarray]:
        """Running moments, for a checkpoint."""
        state: dict[str, np.ndarray] = {}
        for i, part in enumerate(self._leaves):
            if part.moments is not None:
                state[f"normalize.{i}.count"] = np.array(part.moments.count, np.int64)
                state[f"normalize.{i}.mean"] = part.moments.mean
                state[f"normalize.{i}.squares"] = part.moments.squares
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` returned.

        Raises:
            CheckpointError: it was normalised there and is not here, or the other way round.
        """
        for i, part in enumerate(self._leaves):
            stored = f"normalize.{i}.count" in state
            if stored != (part.moments is not None):
                raise CheckpointError(
                    "the stored policy saw observations with preprocessing.normalize_observations = "
                    f"{str(stored).lower()}, and now it is {str(not stored).lower()}: set the same."
                )
            if part.moments is not None:
                part.moments.count = int(state[f"normalize.{i}.count"])
                part.moments.mean = np.array(state[f"normalize.{i}.mean"])
                part.moments.squares = np.array(state[f"normalize.{i}.squares"])


def _told(space: Space) -> str | None:
    """The leaf that tells a group of agents their rewards (`algorithms.groups`), which are to stay
    what they are."""
    group = isinstance(space, Dict) and isinstance(space.spaces.get("agents"), Dict)
    return ".rewards" if group else None


def _rebuild(space: Space, parts: Any) -> Space:
    if isinstance(space, Dict):
        return Dict({key: _rebuild(part, parts) for key, part in space.spaces.items()})
    if isinstance(space, Tuple):
        return Tuple([_rebuild(part, parts) for part in space.spaces])
    result: Space = next(parts)
    return result
