"""Heads of which each part knows what was chosen before it: for actions of several parts that
belong together.

A plain head chooses all parts of an action independently of one another, given the observation.
Here the head of the network is an encoding z of the observation, and the parts follow from it and
from the choices c_1, c_2, ... one after another:

    logits_k = W_k tanh(z + E_1[c_1] + ... + E_k-1[c_k-1]) + b_k.

Choices come in the order of the action space, one for each Discrete and for each number of a
MultiDiscrete or MultiBinary; reals come behind all of them, each with a mean (and a log deviation)
of the same form. So reals depend on the choices, but not on one another.

Source: the autoregressive policies of Vinyals et al., https://arxiv.org/abs/1708.04782, section
4.1.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from policy_server.networks.mlp import linear
from policy_server.types import ActionLayout

ENCODING = 64
"""Columns of z."""
HEAD_GAIN = 0.01
"""The first policy is close to uniform."""


class AutoregressiveHeads(nn.Module):
    """Logits of each choice, given z and the choices before it; means of the reals, given all.

    Attributes:
        choices: K.
        reals: D.
    """

    def __init__(self, layout: ActionLayout, free_log_std: bool, initial_log_std: float):
        super().__init__()
        nvec: list[int] = layout.nvec.tolist()
        self.choices, self.reals = layout.categories, layout.reals
        widths, remembered = nvec, nvec[:-1]
        if self.reals:
            widths, remembered = [*nvec, self.reals * (1 if free_log_std else 2)], nvec
        parts = [linear(ENCODING, width, HEAD_GAIN) for width in widths]
        self._parts = nn.ModuleList(parts)
        self._embeddings = nn.ParameterList(
            torch.randn(n, ENCODING) / math.sqrt(len(remembered)) for n in remembered
        )
        if self.reals and not free_log_std:
            with torch.no_grad():
                parts[-1].bias[self.reals :] = initial_log_std

    def part(self, k: int, z: torch.Tensor) -> torch.Tensor:
        """Logits of choice k, `[n, options]`; for k = K means of the reals, `[n, D]`, or `[n, 2 D]`
        with their log deviations. z `[n, ENCODING]` is from `after` the choice before."""
        result: torch.Tensor = self._parts[k](torch.tanh(z))
        return result

    def after(self, k: int, z: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """z of what comes behind choice k, of which `chosen`, int64 `[n]`, was taken."""
        if k == len(self._embeddings):
            return z
        return z + nn.functional.embedding(chosen, self._embeddings[k])

    def given(self, z: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """A plain head, `policy.head_width` columns, of what each part would have been drawn from
        on the way to these choices.

        Shapes: z `[n, ENCODING]`, categories int64 `[n, K]`.
        """
        parts = []
        for k in range(self.choices):
            parts.append(self.part(k, z))
            z = self.after(k, z, categories[:, k])
        if self.reals:
            parts.append(self.part(self.choices, z))
        return torch.cat(parts, dim=1)
