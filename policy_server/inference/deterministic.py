"""Head of the network -> its mode: the likeliest options, and the means."""

from __future__ import annotations

import numpy as np

from policy_server.inference.sampling import FORBIDDEN, Choice, Sampler
from policy_server.types import ActionLayout


class DeterministicChooser:
    """Takes the best of what is allowed. What is certain has log-probability 0."""

    remembers, explores = False, False
    noise_width = 0

    def __init__(self, layout: ActionLayout):
        self._sampler = Sampler(layout)
        self._log_std = np.zeros(layout.reals, np.float32)
        ends = np.cumsum(layout.nvec).tolist()
        self._starts = np.array([0, *ends[:-1]], np.int64) if ends else np.zeros(0, np.int64)

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
        best = np.ones(len(head), bool)
        choice = self._sampler.choose(head, self._log_std, mask, uniform, best)
        return choice._replace(logp=np.zeros(len(head), np.float32))

    def log_prob(
        self,
        head: np.ndarray,
        log_std: np.ndarray | None,
        mask: np.ndarray | None,
        categories: np.ndarray,
        reals: np.ndarray,
    ) -> np.ndarray:
        """Of actions that somebody else chose: 0, since whatever was done counts with the whole
        episode; nothing where they are masked."""
        logp = np.zeros(len(head), np.float32)
        if mask is not None:
            allowed = np.take_along_axis(mask, self._starts + categories, 1) != 0
            logp[~allowed.all(axis=1)] = FORBIDDEN
        return logp

    def begin(self, slots: np.ndarray) -> None:
        """Nothing is kept from step to step."""
