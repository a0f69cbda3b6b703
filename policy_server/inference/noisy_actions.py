"""Actions that a network names, and noise on top of them.

Source: Ornstein-Uhlenbeck noise, Lillicrap et al., https://arxiv.org/abs/1509.02971, section 7;
independent noise, Fujimoto et al., https://arxiv.org/abs/1802.09477, section 5.
"""

from __future__ import annotations

import numpy as np

from policy_server.acting import NoisyActions
from policy_server.inference.noise import normals
from policy_server.inference.sampling import Choice
from policy_server.inference.uniform import UniformChooser
from policy_server.types import ActionLayout


class NoisyActionsChooser:
    """Carries out `acting.NoisyActions`. Reals are in -1..1; what is certain has no density, so
    that log-probabilities are 0."""

    def __init__(self, layout: ActionLayout, acting: NoisyActions):
        self._acting = acting
        self._uniform = UniformChooser(layout)
        self._reals = layout.reals
        self.noise_width = 2 * layout.reals
        self.remembers, self.explores = acting.reversion > 0.0, True
        self._processes = np.zeros((0, layout.reals))  # by slot, in units of the deviation

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
        d, a = self._reals, self._acting
        own, clean = head[:, :d], head[:, d:] if a.perturbed else head[:, :d]
        if policy_steps < a.random_steps:
            reals = self._uniform.choose(None, uniform).reals
        else:
            reals = own + a.deviation * self._noise(slots, normals(uniform[:, :d], uniform[:, d:]))
        if greedy is not None:
            reals = np.where(greedy[:, None], clean, reals)
        reals = np.clip(reals, -1.0, 1.0).astype(np.float32)
        none = np.zeros((len(head), 0), np.int64)
        return Choice(none, reals, np.zeros(len(head), np.float32))

    def log_prob(
        self,
        head: np.ndarray,
        log_std: np.ndarray | None,
        mask: np.ndarray | None,
        categories: np.ndarray,
        reals: np.ndarray,
    ) -> np.ndarray:
        """0: whatever was done can be learned from."""
        return np.zeros(len(head), np.float32)

    def begin(self, slots: np.ndarray) -> None:
        """Episodes begin there: so do the processes."""
        if self.remembers:
            self._make_room(slots)
            self._processes[slots] = 0.0

    def _noise(self, slots: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """`[n, D]`, in units of the deviation."""
        if not self.remembers:
            return normals
        self._make_room(slots)
        now = (1.0 - self._acting.reversion) * self._processes[slots] + normals
        self._processes[slots] = now
        return now

    def _make_room(self, slots: np.ndarray) -> None:
        missing = int(slots.max(initial=-1)) + 1 - len(self._processes)
        if missing > 0:
            more = np.zeros((missing, self._reals))
            self._processes = np.concatenate([self._processes, more])
