"""Work of torch that is recorded once and replayed as a CUDA graph.

On a GPU a small network is not slow because of its arithmetic: each of the hundred kernels of a
gradient step takes some microseconds to launch. A graph launches all of them at once. In return
everything stays where it was when it was recorded: inputs are written to the same memory every
time, shapes never change, and Python runs no more.

Where there is no GPU the work is simply done again, so that all that stands around it can be
tested on any machine. Nothing here has been measured on a GPU yet.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

WARM_UPS = 3
"""Times that the work is done before it is recorded: libraries choose their ways at first."""


@functools.cache
def _stream(device: int) -> torch.cuda.Stream:
    """Where work of a GPU is recorded: what shares memory must share it. torch's own choice would
    be one for all GPUs."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Captured:
    """Work on tensors that stay where they are.

    Args:
        work: reads and writes tensors made before; returns a tensor. On a GPU it must not wait
            for it, nor depend on values of its tensors in Python.
        changes: tensors that the work changes and that are to look untouched by warming up.
        pool: of another `Captured` that is never under way at the same time, and whose result
            nobody needs when this one is called: they share memory.
    """

    def __init__(
        self,
        work: Callable[[], torch.Tensor],
        device: torch.device,
        changes: Sequence[torch.Tensor] = (),
        pool: Any = None,
    ):
        self._work = work
        self._graph: torch.cuda.CUDAGraph | None = None
        self.pool = pool
        if device.type == "cuda":
            with torch.cuda.device(device):
                self._capture(changes)

    def __call__(self) -> torch.Tensor:
        """The result; on a GPU at the same place every time, where the next call overwrites it."""
        if self._graph is None:
            return self._work()
        self._graph.replay()
        return self._result

    def _capture(self, changes: Sequence[torch.Tensor]) -> None:
        before = [tensor.clone() for tensor in changes]
        here, aside = torch.cuda.current_stream(), _stream(torch.cuda.current_device())
        aside.wait_stream(here)
        try:
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    self._work()
            here.wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=self.pool, stream=aside):
                self._result = self._work()
            self.pool = self._graph.pool()
        finally:
            with torch.no_grad():
                for tensor, was in zip(changes, before, strict=True):
                    tensor.copy_(was)
