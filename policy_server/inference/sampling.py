"""Head of the network -> actions and their log-probabilities, in NumPy.

The same distribution as `algorithms.ops.distributions`, which the learner uses: log-probabilities
agree to float32 rounding, so that PPO's ratio is 1 on the first epoch.

A head is `[n, W + D]` or `[n, W + 2 D]`: logits of all categoricals one after another, means of
the reals, and their log deviations unless these are free parameters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from policy_server.types import ActionLayout

FORBIDDEN = np.float32(-np.inf)
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class Choice(NamedTuple):
    """What was chosen. categories int64 [n, K]; reals float32 [n, D], in units of the Gaussian;
    logp float32 [n]."""

    categories: np.ndarray
    reals: np.ndarray
    logp: np.ndarray


class Sampler:
    """Draws from the distribution that a head describes."""

    def __init__(self, layout: ActionLayout):
        self.layout = layout
        ends = np.cumsum(layout.nvec).tolist()
        self._segments = [(end - n, end) for end, n in zip(ends, layout.nvec.tolist(), strict=True)]
        self._logits = layout.mask_width
        self.noise_width = layout.categories + 2 * layout.reals
        """Uniforms needed per action."""

    def _log_softmax(
        self, head: np.ndarray, mask: np.ndarray | None, start: int, end: int
    ) -> np.ndarray:
        logits = head[:, start:end]
        if mask is not None:
            logits = np.where(mask[:, start:end] != 0, logits, FORBIDDEN)
        logits = logits - logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def _gaussian(
        self, head: np.ndarray, log_std: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        d = self.layout.reals
        mean = head[:, self._logits : self._logits + d]
        if log_std is None:
            log_std = head[:, self._logits + d : self._logits + 2 * d]
        return mean, np.broadcast_to(log_std, mean.shape)

    def choose(
        self,
        head: np.ndarray,
        log_std: np.ndarray | None,
        mask: np.ndarray | None,
        uniform: np.ndarray,
        greedy: np.ndarray | None,
    ) -> Choice:
        """Samples, or takes the most likely action where `greedy`.

        Shapes: head float32 `[n, H]`, log_std `[D]` or None, mask uint8 `[n, W]` or None,
        uniform float64 `[n, noise_width]`, greedy bool `[n]` or None (nobody).
        """
        n, k, d = len(head), self.layout.categories, self.layout.reals
        rows = np.arange(n)
        categories = np.empty((n, k), np.int64)
        logp = np.zeros(n, np.float32)
        # Options first: a reduction over them is then one vectorised pass per option, ten times
        # faster at 1024 rows than short runs along a row.
        columns = np.ascontiguousarray(head.T)
        masks = None if mask is None else mask.T
        for i, (start, end) in enumerate(self._segments):
            logits = columns[start:end]
            if masks is not None:
                logits = np.where(masks[start:end] != 0, logits, FORBIDDEN)
            logits = logits - np.maximum.reduce(logits, axis=0)
            cumulative = np.add.accumulate(np.exp(logits), axis=0, dtype=np.float64)
            total = cumulative[-1]
            # First option whose cumulative probability exceeds the threshold: never one of
            # probability 0, since the threshold is below the last cumulative value.
            chosen = np.add.reduce(cumulative <= uniform[:, i] * total, axis=0, dtype=np.int64)
            if greedy is not None:
                chosen = np.where(greedy, logits.argmax(axis=0), chosen)
            categories[:, i] = chosen
            logp += logits[chosen, rows] - np.log(total)
        if not d:
            return Choice(categories, np.empty((n, 0), np.float32), logp)
        from policy_server.inference.noise import normals

        mean, log_std = self._gaussian(head, log_std)
        noise = normals(uniform[:, k:])
        if greedy is not None:
            noise = np.where(greedy[:, None], np.float32(0.0), noise)
        reals = (mean + np.exp(log_std) * noise).astype(np.float32)
        return Choice(categories, reals, logp + self._log_normal(reals, mean, log_std))

    def log_prob(
        self,
        head: np.ndarray,
        log_std: np.ndarray | None,
        mask: np.ndarray | None,
        categories: np.ndarray,
        reals: np.ndarray,
    ) -> np.ndarray:
        """Of given actions: float32 `[n]`."""
        rows = np.arange(len(head))
        logp = np.zeros(len(head), np.float32)
        for i, (start, end) in enumerate(self._segments):
            logp += self._log_softmax(head, mask, start, end)[rows, categories[:, i]]
        if self.layout.reals:
            mean, log_std = self._gaussian(head, log_std)
            logp += self._log_normal(reals, mean, log_std)
        return logp

    @staticmethod
    def _log_normal(reals: np.ndarray, mean: np.ndarray, log_std: np.ndarray) -> np.ndarray:
        z = (reals - mean) * np.exp(-log_std)
        return (-0.5 * z * z - log_std - _HALF_LOG_TWO_PI).sum(axis=1).astype(np.float32)


class RealScale:
    """Units of the Gaussian <-> units of the simulator.

    Where a Box is bounded on both sides, action = middle + half range * z, clipped to the
    bounds; elsewhere action = z. What is stored and learned from is z, unclipped, so that
    log-probabilities stay exact.
    """

    def __init__(self, layout: ActionLayout):
        low, high = layout.low.astype(np.float64), layout.high.astype(np.float64)
        bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        self.middle = ((high + low) / 2).astype(np.float32)
        self.half = ((high - low) / 2).astype(np.float32)
        self.low, self.high = layout.low, layout.high

    def to_simulator(self, reals: np.ndarray) -> np.ndarray:
        """z `[n, D]` -> actions `[n, D]`, within bounds."""
        return np.clip(self.middle + self.half * reals, self.low, self.high)

    def from_simulator(self, actions: np.ndarray) -> np.ndarray:
        """Actions `[n, D]` -> z `[n, D]`."""
        return (actions - self.middle) / self.half
