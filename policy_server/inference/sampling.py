"""Head of the network -> actions and their log-probabilities, in NumPy.

The same distribution as `algorithms.ops.distributions`, which the learner uses: log-probabilities
agree to float32 rounding, so that PPO's ratio is 1 on the first epoch.

A head is `[n, W + D]` or `[n, W + 2 D]`: logits of all categoricals one after another, means of
the reals, and their log deviations unless these are free parameters.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from policy_server.acting import LOG_STD_LIMIT
from policy_server.compiled import compiled, part
from policy_server.inference.noise import normal
from policy_server.types import ActionLayout

FORBIDDEN = np.float32(-np.inf)
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
NO_LOG_STD = np.empty(0, np.float32)
NO_MASK = np.empty((0, 0), np.uint8)
NOBODY = np.empty(0, np.bool_)


class Choice(NamedTuple):
    """What was chosen. categories int64 [n, K]; reals float32 [n, D], in units of the Gaussian;
    logp float32 [n]."""

    categories: np.ndarray
    reals: np.ndarray
    logp: np.ndarray


@part
def choose_rows(
    head: Any,
    log_std: Any,
    mask: Any,
    uniform: Any,
    greedy: Any,
    nvec: Any,
    categories: Any,
    reals: Any,
    logp: Any,
) -> None:
    """`Sampler.choose`, row by row; the last three are written. Nobody is greedy, nothing is
    masked, or the log deviations are in the head, where `greedy`, `mask` or `log_std` is empty."""
    choices, d = len(nvec), reals.shape[1]
    weights = np.empty(max(1, nvec.max() if choices else 1), np.float64)
    for row in range(len(head)):
        best = len(greedy) > 0 and greedy[row]
        sum_logp = np.float64(0.0)
        start = 0
        for choice in range(choices):
            options = nvec[choice]
            logits = head[row, start : start + options]
            likeliest, top = 0, -np.inf
            for option in range(options):
                allowed = len(mask) == 0 or mask[row, start + option] != 0
                if allowed and logits[option] > top:
                    likeliest, top = option, logits[option]
            total = 0.0
            for option in range(options):
                allowed = len(mask) == 0 or mask[row, start + option] != 0
                weights[option] = np.exp(logits[option] - top) if allowed else 0.0
                total += weights[option]
            chosen = likeliest
            if not best:
                # First option whose cumulative probability exceeds the threshold: never one of
                # probability 0, since the threshold is below the last cumulative value.
                threshold, reached = uniform[row, choice] * total, 0.0
                for option in range(options):
                    reached += weights[option]
                    if reached > threshold:
                        chosen = option
                        break
            categories[row, choice] = chosen
            sum_logp += logits[chosen] - top - np.log(total)
            start += options
        for i in range(d):
            mean = head[row, start + i]
            if len(log_std):
                log_deviation = log_std[i]
            else:
                given = head[row, start + d + i]
                log_deviation = min(
                    max(given, np.float32(-LOG_STD_LIMIT)), np.float32(LOG_STD_LIMIT)
                )
            noise = np.float32(0.0)
            if not best:
                one, other = uniform[row, choices + i], uniform[row, choices + d + i]
                noise = np.float32(normal(one, other))
            real = np.float32(mean + np.exp(log_deviation) * noise)
            reals[row, i] = real
            z = (real - mean) * np.exp(-log_deviation)
            sum_logp += -0.5 * z * z - log_deviation - _HALF_LOG_TWO_PI
        logp[row] = sum_logp


@compiled(
    "void(f4[:,::1], f4[::1], u1[:,::1], f8[:,::1], b1[::1], i8[::1], i8[:,::1], f4[:,::1], f4[::1])"
)
def _choose(
    head: np.ndarray,
    log_std: np.ndarray,
    mask: np.ndarray,
    uniform: np.ndarray,
    greedy: np.ndarray,
    nvec: np.ndarray,
    categories: np.ndarray,
    reals: np.ndarray,
    logp: np.ndarray,
) -> None:
    choose_rows(head, log_std, mask, uniform, greedy, nvec, categories, reals, logp)


class Sampler:
    """Draws from the distribution that a head describes."""

    remembers, explores = False, False

    def __init__(self, layout: ActionLayout):
        self.layout = layout
        ends = np.cumsum(layout.nvec).tolist()
        self._segments = [(end - n, end) for end, n in zip(ends, layout.nvec.tolist(), strict=True)]
        self._logits = layout.mask_width
        self._categories, self._reals = layout.categories, layout.reals
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
            log_std = log_std.clip(-LOG_STD_LIMIT, LOG_STD_LIMIT)
        return mean, np.broadcast_to(log_std, mean.shape)

    def choose(
        self,
        head: np.ndarray,
        log_std: np.ndarray | None,
        mask: np.ndarray | None,
        uniform: np.ndarray,
        greedy: np.ndarray | None,
        policy_steps: int = 0,
        slots: np.ndarray | None = None,
    ) -> Choice:
        """Samples, or takes the most likely action where `greedy`; the same for all lanes, however
        many steps the policy has made.

        Shapes: head float32 `[n, H]`, log_std `[D]` or None, mask uint8 `[n, W]` or None,
        uniform float64 `[n, noise_width]`, greedy bool `[n]` or None (nobody).
        """
        choice = self.blank(len(head))
        _choose(
            head,
            NO_LOG_STD if log_std is None else log_std,
            NO_MASK if mask is None else mask,
            uniform,
            NOBODY if greedy is None else greedy,
            self.layout.nvec,
            *choice,
        )
        return choice

    def blank(self, n: int) -> Choice:
        """For compiled code to write to: arrays that it makes itself cost three times as much."""
        return Choice(
            np.empty((n, self._categories), np.int64),
            np.empty((n, self._reals), np.float32),
            np.empty(n, np.float32),
        )

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

    def begin(self, slots: np.ndarray) -> None:
        """Nothing is kept from step to step."""

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
