"""Heads -> actions, by a distribution of the user's own.

Lives on the gateway's thread.
"""

from __future__ import annotations

import numpy as np
import torch

from policy_server.inference.sampling import Choice
from policy_server.networks.own_distribution import OwnDistribution
from policy_server.types import ActionLayout


class OwnChooser:
    """Draws from it.

    Torch's generator is seeded with a number of the first lane in the batch, so that a run can be
    repeated where its batches are the same again. Unlike those of our own distributions, an action
    so depends on who else is in the batch: drawing row by row would take as long as all else.
    """

    remembers, explores = False, False
    noise_width = 1

    def __init__(self, layout: ActionLayout, own: type[OwnDistribution]):
        self._layout, self._own = layout, own

    @torch.inference_mode()
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
        policy = self._distribution(head, mask)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(uniform[0, 0] * 2**32))
            categories, reals = policy.sample()
        if greedy is not None and greedy.any():
            best = torch.from_numpy(greedy).unsqueeze(1)
            columns = zip((categories, reals), policy.mode(), strict=True)
            categories, reals = (torch.where(best, mode, drawn) for drawn, mode in columns)
        reals = reals.float()
        logp = policy.log_prob(categories, reals)
        return Choice(_numbers(categories), _numbers(reals), _numbers(logp.float()))

    @torch.inference_mode()
    def log_prob(
        self,
        head: np.ndarray,
        log_std: np.ndarray | None,
        mask: np.ndarray | None,
        categories: np.ndarray,
        reals: np.ndarray,
    ) -> np.ndarray:
        """Of given actions: float32 `[n]`."""
        given = torch.tensor(categories), torch.tensor(reals)
        return _numbers(self._distribution(head, mask).log_prob(*given).float())

    def begin(self, slots: np.ndarray) -> None:
        """Nothing is kept from step to step."""

    def _distribution(self, head: np.ndarray, mask: np.ndarray | None) -> OwnDistribution:
        allowed = None if mask is None else torch.tensor(mask)
        return self._own(torch.tensor(head), allowed, self._layout)


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy())
