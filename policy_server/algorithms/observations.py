"""A batch's observations as rows of tensors, fetched where and when they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from policy_server.networks.snapshot import as_tensor
from policy_server.types import Batch, Leaves

CHUNK_ELEMENTS = 1 << 24
"""Numbers in one chunk of observations, or 64 MiB once they are float32."""


class ObservationRows:
    """Observations by row number, in their storage dtype until they are asked for.

    Shapes: leaves `[R, ...]`; a row of step t in column b of a batch is t * B + b.

    Attributes:
        device: where they are.
    """

    def __init__(self, leaves: Leaves, device: torch.device):
        self._leaves = [as_tensor(leaf).to(device) for leaf in leaves]
        self.device = device
        numbers = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
        self._chunk = max(1, CHUNK_ELEMENTS // max(numbers, 256))

    @classmethod
    def of_batch(cls, batch: Batch, device: torch.device) -> ObservationRows:
        """All `[T+1, B]` of them, padding included (which nobody may ask for)."""
        flat = [leaf.reshape((-1, *leaf.shape[2:])) for leaf in batch.obs]
        return cls(tuple(flat), device)

    def __getitem__(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """int64 `[n]` -> leaves `[n, ...]`."""
        return tuple(leaf.index_select(0, rows) for leaf in self._leaves)

    def write(self, rows: torch.Tensor, places: Sequence[torch.Tensor]) -> None:
        """The same into tensors that are there already."""
        for leaf, place in zip(self._leaves, places, strict=True):
            torch.index_select(leaf, 0, rows, out=place)

    def chunks(self, rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """The rows in order, in pieces of bounded memory."""
        for some in torch.split(rows, self._chunk):
            yield self[some]

    def evaluate(
        self, rows: torch.Tensor, function: Callable[[tuple[torch.Tensor, ...]], torch.Tensor]
    ) -> torch.Tensor:
        """`function` of all rows, chunk by chunk, without gradients."""
        if len(rows) == 0:
            return torch.zeros(0, device=self.device)
        with torch.no_grad():
            return torch.cat([function(chunk) for chunk in self.chunks(rows)])
