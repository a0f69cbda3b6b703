"""Which noise an episode is played with: a direction in parameter space, forwards or backwards.

Episodes 2k and 2k + 1 of a policy are a mirrored pair: direction k, once added and once
subtracted. A direction is made from the policy's seed and its number, wherever it is needed: where
episodes are played as where they are learned from. It never travels.

Source: mirrored sampling, Brockhoff et al., Mirrored Sampling and Sequential Selection for
Evolution Strategies, PPSN 2010; numbers instead of noise, Salimans et al.,
https://arxiv.org/abs/1703.03864, section 2.1.
"""

from __future__ import annotations

import numpy as np


def pair_of(episode: int) -> tuple[int, int]:
    """Number of the episode's direction, and 0 (added) or 1 (subtracted)."""
    return divmod(episode, 2)


def direction(seed: int, number: int, size: int) -> np.ndarray:
    """Standard normal noise for each parameter: float32 `[size]`."""
    generator = np.random.Generator(np.random.Philox(key=[seed, number]))
    return generator.standard_normal(size, np.float32)


def perturbed(
    weights: np.ndarray, learned: np.ndarray, deviation: float, seed: int, episode: int
) -> np.ndarray:
    """What an episode is played with: float32 `[P]` -> float32 `[P]`; there is noise in those
    numbers alone that are `learned`, bool[P]."""
    number, backwards = pair_of(episode)
    step = np.float32(-deviation if backwards else deviation)
    played = weights.copy()
    played[learned] += step * direction(seed, number, int(learned.sum()))
    return played
