"""Actions that are uniform over the action space: what a policy does before it knows anything."""

from __future__ import annotations

import math

import numpy as np

from policy_server.inference.sampling import Choice
from policy_server.types import ActionLayout


class UniformChooser:
    """Chooses among what is allowed, and reals within -1..1, each option as likely as any."""

    def __init__(self, layout: ActionLayout):
        ends = np.cumsum(layout.nvec).tolist()
        self._segments = [(end - n, end) for end, n in zip(ends, layout.nvec.tolist(), strict=True)]
        self._categories, self._reals = layout.categories, layout.reals
        self.noise_width = layout.categories + layout.reals
        """Uniforms needed per action."""

    def choose(self, mask: np.ndarray | None, uniform: np.ndarray) -> Choice:
        """Shapes: mask uint8 `[n, W]` or None, uniform float64 `[n, noise_width]` or wider."""
        n, k = len(uniform), self._categories
        categories = np.empty((n, k), np.int64)
        logp = np.full(n, -self._reals * math.log(2.0))
        for i, (start, end) in enumerate(self._segments):
            allowed = np.ones((n, end - start), bool) if mask is None else mask[:, start:end] != 0
            count = allowed.sum(axis=1)
            # The j-th of those allowed, j = floor(count * u).
            wanted = np.floor(count * uniform[:, i]) + 1
            categories[:, i] = (allowed.cumsum(axis=1) >= wanted[:, None]).argmax(axis=1)
            logp -= np.log(count)
        reals = 2.0 * uniform[:, k : k + self._reals] - 1.0
        return Choice(categories, reals.astype(np.float32), logp.astype(np.float32))
