"""Sequences of steps for networks with a memory, in a ring of places that overwrites the oldest.

An unroll is cut at the ends of its episodes; what lies between is cut into sequences of `length`
steps to learn from. In front of each go `burn_in` steps that only bring the memory up to date, if
there are as many in the same unroll; else the sequence begins where the memory is known: at the
beginning of an episode, or of an unroll, whose state the gateway sent. With each sequence its first
state is stored (Kapturowski et al., R2D2, section 3).

A place is burn_in + length + 1 observations, so that what is learned from always begins in the same
row; the last of them only bootstraps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from policy_server.errors import CheckpointError
from policy_server.networks.snapshot import as_tensor
from policy_server.replay.remedy import WITHOUT, check_dtypes
from policy_server.types import Batch

StatesBefore = Callable[[Batch, np.ndarray, np.ndarray], np.ndarray]
"""(batch, t int64 `[m]`, b int64 `[m]`) -> states of the memory before these steps, `[m, S]`."""


class DrawnSequences(NamedTuple):
    """n sequences, time first, with L steps to learn from behind K to warm up with.

    Attributes:
        obs: one tensor `[K + L + 1, n, ...]` per leaf.
        mask: uint8 `[K + L + 1, n, W]`; W = 0 where there are no masks.
        categories: int64 `[L, n, K]`.
        rewards: `[L, n]`.
        lengths: int64 `[n]`, how many of the L steps there are.
        terminated: bool `[n]`, the last of them ended the episode.
        burned: bool `[n]`, the K steps are there; else the state is that before the L steps.
        state: `[n, S]`.
    """

    obs: tuple[torch.Tensor, ...]
    mask: torch.Tensor
    categories: torch.Tensor
    rewards: torch.Tensor
    lengths: torch.Tensor
    terminated: torch.Tensor
    burned: torch.Tensor
    state: torch.Tensor

    def to(self, device: torch.device) -> DrawnSequences:
        """The same there."""
        obs, *rest = self
        return DrawnSequences(
            tuple(leaf.to(device) for leaf in obs),
            *(column.to(device) for column in rest),
        )


class SequenceBuffer:
    """The last `capacity` sequences.

    Attributes:
        items: how many there are.
        inserted: sequences ever written; number i lies in place i % capacity.
    """

    def __init__(
        self,
        capacity: int,
        burn_in: int,
        length: int,
        device: torch.device,
        states_before: StatesBefore,
    ):
        self.capacity, self.device = capacity, device
        self._burn_in, self._length = burn_in, length
        self._states_before = states_before
        self.inserted = 0
        self._columns: dict[str, torch.Tensor] = {}
        self._leaves = 0

    def _allocate(
        self, leaves: list[torch.Tensor], choices: int, mask_width: int, state_size: int
    ) -> None:
        """`leaves`: one observation each, `[any, ...]`; K, W and S."""
        rows, steps = self._burn_in + self._length + 1, self._length
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            f"obs.{i}": ((rows, *leaf.shape[1:]), leaf.dtype) for i, leaf in enumerate(leaves)
        }
        shapes |= {
            "mask": ((rows, mask_width), torch.uint8),
            "categories": ((steps, choices), torch.int32),
            "rewards": ((steps,), torch.float32),
            "lengths": ((), torch.int32),
            "terminated": ((), torch.bool),
            "burned": ((), torch.bool),
            "state": ((state_size,), torch.float32),
        }
        self._columns = {
            name: torch.zeros((self.capacity, *shape), dtype=dtype, device=self.device)
            for name, (shape, dtype) in shapes.items()
        }
        self._leaves = len(leaves)

    @property
    def items(self) -> int:
        return min(self.inserted, self.capacity)

    @property
    def nbytes(self) -> int:
        """Memory of all columns."""
        return sum(t.numel() * t.element_size() for t in self._columns.values())

    # -- writing ---------------------------------------------------------------------------------

    def insert(self, batch: Batch, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Takes a batch in; `rewards`: float32 `[T, B]`, as they are to be learned from.

        Returns: int64[m], places of sequences that are gone; int64[n], places of the new ones.
        """
        masked = batch.masks is not None
        if not self._columns:
            width = batch.masks.shape[2] if batch.masks is not None else 0
            leaves = [as_tensor(leaf[:0]) for leaf in batch.final_obs]
            remembered = 0 if batch.state is None else batch.state.shape[1]
            self._allocate(leaves, batch.categories.shape[2], width, remembered)
        check_dtypes((self._columns[f"obs.{i}"] for i in range(self._leaves)), batch.final_obs)
        t, b, lengths, burned = self._cut(batch)
        first = np.where(burned, t - self._burn_in, t)
        states = self._states_before(batch, first, b)
        if masked:  # nobody knows the mask of what an unroll, or a truncated episode, ends with
            unknown = (t + lengths == batch.lengths[b]) | batch.truncated[t + lengths - 1, b]
            unknown &= ~batch.terminated[t + lengths - 1, b]
            lengths = lengths - unknown
            keep = lengths > 0
            t, b, lengths, burned, states = (
                column[keep] for column in (t, b, lengths, burned, states)
            )
        if len(t) > self.capacity:  # not all of them have room
            t, b, lengths, burned, states = (
                column[-self.capacity :] for column in (t, b, lengths, burned, states)
            )
        places = (self.inserted + np.arange(len(t))) % self.capacity
        gone = places[places < self.items]
        for place, *one in zip(places.tolist(), t.tolist(), b.tolist(), lengths.tolist(),
                               burned.tolist(), strict=True):  # fmt: skip
            self._write(place, batch, rewards, *one)
        self._columns["state"][torch.from_numpy(places)] = as_tensor(states).to(self.device)
        self.inserted += len(t)
        return gone, places

    def _cut(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """First step to learn from, column and length of each sequence, and whether there is room
        to warm up in front of it."""
        found = [
            (t, b, min(self._length, end - t), 0 < self._burn_in <= t - start)
            for b, start, end in batch.stretches()
            for t in range(start, end, self._length)
        ]
        columns = np.array(found, np.int64).reshape(-1, 4)
        return columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3].astype(bool)

    def _write(
        self,
        place: int,
        batch: Batch,
        rewards: np.ndarray,
        t: int,
        b: int,
        length: int,
        burned: bool,
    ) -> None:
        columns, k = self._columns, self._burn_in
        first = t - k if burned else t
        row = 0 if burned else k
        end = t + length
        last = (end - 1, b)
        terminated = bool(batch.terminated[last])
        behind: int | None = None
        if batch.truncated[last]:
            (behind,) = np.flatnonzero((batch.final_index == last).all(1)).tolist()
        for i, (leaf, final) in enumerate(zip(batch.obs, batch.final_obs, strict=True)):
            column = columns[f"obs.{i}"][place]
            # Padding repeats what is there: zero may be no value of the space.
            column[:] = as_tensor(leaf[first, b]).to(self.device)
            column[row : k + length] = as_tensor(leaf[first:end, b]).to(self.device)
            if behind is not None:
                column[k + length] = as_tensor(final[behind]).to(self.device)
            elif not terminated:
                column[k + length] = as_tensor(leaf[end, b]).to(self.device)
        if batch.masks is not None:
            columns["mask"][place] = 1
            known = min(end + 1, int(batch.lengths[b])) if behind is None else end
            masks = as_tensor(batch.masks[first:known, b])
            columns["mask"][place, row : row + len(masks)] = masks.to(self.device)
        columns["categories"][place, :length] = as_tensor(batch.categories[t:end, b]).to(
            self.device, torch.int32
        )
        columns["rewards"][place, :length] = as_tensor(rewards[t:end, b]).to(self.device)
        columns["lengths"][place] = length
        columns["terminated"][place] = terminated
        columns["burned"][place] = burned

    # -- reading ---------------------------------------------------------------------------------

    def steps_of(self, places: np.ndarray) -> int:
        """Steps to learn from in these sequences."""
        return int(self._columns["lengths"][torch.from_numpy(places)].sum()) if len(places) else 0

    def drawable(self, places: np.ndarray) -> np.ndarray:
        """bool[n]: which of these can be learned from."""
        return places < self.items

    def sequences(self, places: np.ndarray) -> DrawnSequences:
        """int64[n]"""
        rows = torch.from_numpy(places).to(self.device)
        drawn = {name: column.index_select(0, rows) for name, column in self._columns.items()}
        return DrawnSequences(
            tuple(drawn[f"obs.{i}"].transpose(0, 1) for i in range(self._leaves)),
            drawn["mask"].transpose(0, 1),
            drawn["categories"].long().transpose(0, 1),
            drawn["rewards"].transpose(0, 1),
            drawn["lengths"].long(),
            drawn["terminated"],
            drawn["burned"],
            drawn["state"],
        )

    # -- saving ----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Columns as far as they were written, and the rest as JSON."""
        tensors = {name: c[: self.items].cpu().numpy().copy() for name, c in self._columns.items()}
        return tensors, {
            "inserted": self.inserted, "capacity": self.capacity, "leaves": self._leaves,
        }  # fmt: skip

    def load(self, tensors: dict[str, np.ndarray], data: dict[str, Any]) -> None:
        """Goes on from what `state` returned.

        Raises:
            CheckpointError: it is of another size, or of other spaces.
        """
        if data["capacity"] != self.capacity:
            raise CheckpointError(
                f"the stored replay buffer holds {data['capacity']} sequences and this one "
                f"{self.capacity}: set the same training.buffer_size and training.sequence_length, "
                f"or {WITHOUT}."
            )
        self.inserted = int(data["inserted"])
        if not data["leaves"]:
            return
        leaves = [
            torch.from_numpy(tensors[f"obs.{i}"]).flatten(0, 1) for i in range(int(data["leaves"]))
        ]
        widths = (tensors[name].shape[-1] for name in ("categories", "mask", "state"))
        self._allocate(leaves, *widths)
        for name, column in self._columns.items():
            stored = tensors.get(name)
            if stored is None or stored.shape != (self.items, *column.shape[1:]):
                came = "nothing" if stored is None else f"shape {list(stored.shape)}"
                wanted = [self.items, *column.shape[1:]]
                raise CheckpointError(
                    f"replay buffer, {name}: expected shape {wanted}, got {came}: set the same "
                    f"training.sequence_length and training.burn_in, or {WITHOUT}."
                )
            column[: self.items] = torch.from_numpy(stored)
