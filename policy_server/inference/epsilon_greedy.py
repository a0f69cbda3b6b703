"""Values of options -> mostly the best of them.

Epsilon-greedy is a distribution like any other: each allowed option has epsilon / m, the best one
1 - epsilon on top. So what was done has an exact log-probability, and `sampling` draws from it.
"""

from __future__ import annotations

import numpy as np

from policy_server.acting import EpsilonGreedy
from policy_server.inference.sampling import FORBIDDEN, NOBODY, Choice, Sampler
from policy_server.types import ActionLayout

LEAST = 1e-6
"""Probability that an action gets which somebody else chose: whatever is allowed can be learned
from."""


class EpsilonGreedyChooser:
    """Carries out `acting.EpsilonGreedy`, for each categorical by itself."""

    remembers, explores = False, True

    def __init__(self, layout: ActionLayout, acting: EpsilonGreedy):
        self._sampler = Sampler(layout)
        self.noise_width = self._sampler.noise_width
        self._width = layout.mask_width
        ends = np.cumsum(layout.nvec).tolist()
        self._segments = [(end - n, end) for end, n in zip(ends, layout.nvec.tolist(), strict=True)]
        self._steps, self._values = (
            np.array(column) for column in zip(*acting.epsilon, strict=True)
        )
        self._noisy = acting.noisy

    def epsilon(self, policy_steps: int) -> float:
        """When the policy has made so many steps."""
        return float(np.interp(policy_steps, self._steps, self._values))

    def epsilons(self, policy_steps: int, slots: np.ndarray) -> np.ndarray:
        """Of these lanes, float64 `[n, 1]`."""
        return np.full((len(slots), 1), self.epsilon(policy_steps))

    def choose(
        self,
        head: np.ndarray,
        log_std: np.ndarray | None,
        mask: np.ndarray | None,
        uniform: np.ndarray,
        greedy: np.ndarray | None,
        policy_steps: int,
        slots: np.ndarray,
    ) -> Choice:
        """As `Chooser.choose`."""
        epsilon = self.epsilons(policy_steps, slots)
        values = head[:, : self._width]
        if greedy is not None:
            epsilon[greedy] = 0.0
            if self._noisy:
                values = np.where(greedy[:, None], head[:, self._width :], values)
        with np.errstate(divide="ignore"):  # what has no probability is forbidden
            logits = np.log(self._probabilities(values, mask, epsilon))
        return self._sampler.choose(logits, None, mask, uniform, NOBODY)

    def log_prob(
        self,
        head: np.ndarray,
        log_std: np.ndarray | None,
        mask: np.ndarray | None,
        categories: np.ndarray,
        reals: np.ndarray,
    ) -> np.ndarray:
        """Of actions that somebody else chose: `LEAST`, or nothing where they are masked."""
        logp = np.zeros(len(head), np.float32)
        rows = np.arange(len(head))
        for i, (start, _) in enumerate(self._segments):
            if mask is not None:
                allowed = mask[rows, start + categories[:, i]] != 0
                logp += np.where(allowed, 0.0, FORBIDDEN).astype(np.float32)
            logp += np.float32(np.log(LEAST) / len(self._segments))
        return logp

    def begin(self, slots: np.ndarray) -> None:
        """Nothing is kept from step to step."""

    def _probabilities(
        self, values: np.ndarray, mask: np.ndarray | None, epsilon: np.ndarray
    ) -> np.ndarray:
        """float32 `[n, W]`; 0 where masked."""
        result = np.zeros(values.shape, np.float32)
        rows = np.arange(len(values))
        for start, end in self._segments:
            part = values[:, start:end]
            allowed = np.ones(part.shape, bool) if mask is None else mask[:, start:end] != 0
            share = epsilon / allowed.sum(axis=1, keepdims=True)
            result[:, start:end] = np.where(allowed, share, 0.0)
            best = np.where(allowed, part, FORBIDDEN).argmax(axis=1)
            result[rows, start + best] += 1.0 - epsilon[:, 0]
        return result
