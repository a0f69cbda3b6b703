"""Encodings -> actions, chosen part after part: each part is drawn knowing those before it.

The distribution that `networks.heads` describes. The parts' logits are computed by the network that
the executor runs, so that new weights count here as they do there.

Lives on the gateway's thread.
"""

from __future__ import annotations

import numpy as np
import torch

from policy_server.inference.sampling import Choice, Sampler
from policy_server.networks.policy import ActingNetwork
from policy_server.types import ActionLayout
from sim_clients.protocol.spaces import Box, Discrete


class AutoregressiveChooser:
    """Draws from the distribution that an encoding describes."""

    remembers, explores = False, False

    def __init__(self, layout: ActionLayout, network: ActingNetwork):
        assert network.autoregressive is not None
        self._heads = network.autoregressive
        self._sampler = Sampler(layout)
        self.noise_width = self._sampler.noise_width
        self._choices = [Sampler(ActionLayout(Discrete(int(n)))) for n in layout.nvec]
        self._ends = np.cumsum(layout.nvec).tolist()
        self._reals = Sampler(ActionLayout(Box(-1, 1, (layout.reals,)))) if layout.reals else None

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
        """As `Chooser.choose`; greedy is the likeliest option of each part, given those before."""
        z = self._on_device(head)
        choice, start = self._sampler.blank(len(head)), 0
        choice.logp.fill(0.0)
        for k, (sampler, end) in enumerate(zip(self._choices, self._ends, strict=True)):
            allowed = None if mask is None else np.ascontiguousarray(mask[:, start:end])
            noise = np.ascontiguousarray(uniform[:, k : k + 1])
            part = sampler.choose(_numbers(self._heads.part(k, z)), None, allowed, noise, greedy)
            choice.categories[:, k] = part.categories[:, 0]
            np.add(choice.logp, part.logp, out=choice.logp)
            z = self._heads.after(k, z, self._on_device(part.categories[:, 0]))
            start = end
        if self._reals is not None:
            k = len(self._choices)
            noise = np.ascontiguousarray(uniform[:, k:])
            means = _numbers(self._heads.part(k, z))
            reals = self._reals.choose(means, log_std, None, noise, greedy)
            choice.reals[:] = reals.reals
            np.add(choice.logp, reals.logp, out=choice.logp)
        return choice

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
        plain = self._heads.given(self._on_device(head), self._on_device(categories))
        return self._sampler.log_prob(_numbers(plain), log_std, mask, categories, reals)

    def begin(self, slots: np.ndarray) -> None:
        """Nothing is kept from step to step."""

    def _on_device(self, column: np.ndarray) -> torch.Tensor:
        return torch.tensor(column, device=next(self._heads.parameters()).device)


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.float().cpu().numpy())
