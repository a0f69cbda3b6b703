"""Head of the network -> squashed actions: tanh of a Gaussian, and choices by their logits.

The distribution that `algorithms.sac` learns, in NumPy.

Source: Haarnoja et al., https://arxiv.org/abs/1812.05905, appendix C.
"""

from __future__ import annotations

import numpy as np

from policy_server.acting import SquashedGaussian
from policy_server.inference.sampling import Choice, Sampler
from policy_server.inference.uniform import UniformChooser
from policy_server.types import ActionLayout

EDGE = 1.0 - 1e-6
"""Actions are not nearer to their bounds than this: tanh rounds to 1, whose inverse is infinite."""


class SquashedChooser:
    """Carries out `acting.SquashedGaussian`. Reals are in -1..1."""

    remembers, explores = False, False

    def __init__(self, layout: ActionLayout, acting: SquashedGaussian):
        self._acting = acting
        self._sampler = Sampler(layout)
        self._uniform = UniformChooser(layout)
        self.noise_width = self._sampler.noise_width
        self._deviations = layout.mask_width + layout.reals  # the first column of them

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
        warming = policy_steps < self._acting.random_steps
        if warming and (greedy is None or not greedy.any()):
            return self._uniform.choose(mask, uniform)
        choice = self._sampler.choose(self._clipped(head), None, mask, uniform, greedy)
        squashed = np.clip(np.tanh(choice.reals), -EDGE, EDGE)
        logp = choice.logp - _log_slope(choice.reals)
        choice = Choice(choice.categories, squashed, logp)
        if warming:
            columns = zip(choice, self._uniform.choose(mask, uniform), strict=True)
            choice = Choice(*(_where(greedy, own, drawn) for own, drawn in columns))
        return choice

    def log_prob(
        self,
        head: np.ndarray,
        log_std: np.ndarray | None,
        mask: np.ndarray | None,
        categories: np.ndarray,
        reals: np.ndarray,
    ) -> np.ndarray:
        """Of given actions: float32 `[n]`."""
        free = np.arctanh(np.clip(reals, -EDGE, EDGE))
        logp = self._sampler.log_prob(self._clipped(head), None, mask, categories, free)
        return logp - _log_slope(free)

    def begin(self, slots: np.ndarray) -> None:
        """Nothing is kept from step to step."""

    def _clipped(self, head: np.ndarray) -> np.ndarray:
        head, a = head.copy(), self._acting
        part = head[:, self._deviations :]
        np.clip(part, a.log_std_min, a.log_std_max, out=part)
        return head


def _log_slope(free: np.ndarray) -> np.ndarray:
    """log |d tanh / du|, summed: float32 `[n]`; 2 (log 2 - u - softplus(-2u)) stays finite."""
    each = 2.0 * (np.log(2.0) - free - np.logaddexp(0.0, -2.0 * free))
    return each.sum(axis=1).astype(np.float32)


def _where(rows: np.ndarray | None, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    assert rows is not None
    return np.where(rows.reshape(-1, *[1] * (one.ndim - 1)), one, other)
