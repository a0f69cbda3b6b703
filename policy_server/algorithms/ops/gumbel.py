"""Choices that a gradient goes through."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def gumbel(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard Gumbel noise of the shape of `like`, -log E with E exponential: the same numbers on
    every device."""
    noise = torch.empty(like.shape).exponential_(generator=generator)
    return -noise.log().to(like.device)


def straight_through(
    logits: torch.Tensor, noise: torch.Tensor, temperature: float, nvec: Sequence[int]
) -> torch.Tensor:
    """One option of each categorical as a one-hot vector, drawn from its logits l by Gumbel noise g:
    the largest l + g. Backwards it is softmax((l + g) / temperature).

    Shapes: logits and noise `[n, W]`, W the sum of `nvec` -> `[n, W]`.

    Source: Jang, Gu, Poole: https://arxiv.org/abs/1611.01144, section 2.
    """
    assert logits.shape == noise.shape == (len(logits), sum(nvec)), (logits.shape, noise.shape)
    drawn = []
    for keys in torch.split(logits + noise, list(nvec), dim=1):
        soft = torch.softmax(keys / temperature, dim=1)
        hard = torch.zeros_like(keys).scatter_(1, keys.argmax(1, keepdim=True), 1.0)
        drawn.append(hard + (soft - soft.detach()))
    return torch.cat(drawn, dim=1)


def one_hot(categories: torch.Tensor, nvec: Sequence[int]) -> torch.Tensor:
    """Choices side by side as one-hot vectors: int64 `[n, K]` -> float32 `[n, W]`."""
    assert categories.shape[1] == len(nvec), (categories.shape, len(nvec))
    hot = torch.zeros(len(categories), sum(nvec), device=categories.device)
    starts = torch.tensor([sum(nvec[:k]) for k in range(len(nvec))], device=categories.device)
    return hot.scatter_(1, categories + starts, 1.0)
