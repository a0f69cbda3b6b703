"""How a policy acts on what its network says: plain descriptions, which `inference` carries out.

An algorithm's options name one of them (`algorithms.training.Training.acting`). Each also says
what a greedy action is, for evaluation: it never explores. A
frozen policy does without what is there for learning alone: it acts greedily, but where it is a
distribution it keeps drawing from it.
"""

from __future__ import annotations

from dataclasses import dataclass

CLEAN = -1
"""Instead of an episode's number, where `Perturbed` is to play without noise."""


LOG_STD_LIMIT = 10.0
"""Log deviations that depend on what is seen (`model.free_log_std` = false) are held within it, so that
no observation makes actions infinite, or the policy's own impossible."""


@dataclass(frozen=True)
class Stochastic:
    """Draws from the distribution that the network describes; greedy is its mode."""


@dataclass(frozen=True)
class EpsilonGreedy:
    """The network's heads are values of options: takes the best, or with probability epsilon any
    that is allowed.

    Attributes:
        epsilon: ((step, value), ...) over the policy's steps, linear in between, constant behind
            the last.
        noisy: heads are twice as wide, values with the network's noise and without; greedy actions
            go by those without.
    """

    epsilon: tuple[tuple[int, float], ...]
    noisy: bool = False


@dataclass(frozen=True)
class LaneEpsilons:
    """As `EpsilonGreedy`, but with an epsilon for each lane that stays as it is:
    base ** (1 + exponent * x), where x of lane number i is the i-th number of the van der Corput
    sequence, so that lanes are spread evenly over [0, 1) however many there are
    (https://arxiv.org/abs/1803.00933, section 4.1, has i / (N - 1) there)."""

    base: float = 0.4
    exponent: float = 7.0


@dataclass(frozen=True)
class SquashedGaussian:
    """Draws reals from tanh of a Gaussian and choices from their logits: heads are logits, means
    and log deviations. Greedy is tanh of the mean, and the likeliest choice.

    Attributes:
        random_steps: of the policy, at first, that are uniform over the action space.
        log_std_min, log_std_max: log deviations are clipped to them.
    """

    random_steps: int = 0
    log_std_min: float = -20.0
    log_std_max: float = 2.0


@dataclass(frozen=True)
class NoisyActions:
    """The network's heads are actions in -1..1; adds noise to them, and clips. Greedy has none.
    Where actions are choices and not reals, heads are their logits, which they are drawn from;
    greedy is the likeliest.

    Attributes:
        deviation: of the noise, in half ranges of the action space.
        reversion: 0: independent noise; else an Ornstein-Uhlenbeck process, x <- x - reversion x +
            deviation N(0, 1), from 0 in each episode (https://arxiv.org/abs/1509.02971, section 7).
        random_steps: of the policy, at first, that are uniform over the action space.
        perturbed: heads are twice as wide, actions of a network with noise in its parameters and of
            the network itself; greedy actions are the latter (https://arxiv.org/abs/1706.01905).
    """

    deviation: float = 0.1
    reversion: float = 0.0
    random_steps: int = 0
    perturbed: bool = False


@dataclass(frozen=True)
class Perturbed:
    """Plays each episode with noise of its own in the network's parameters (`perturbation`), and
    takes the mode of what the network describes: heads are logits and means. Greedy is the network
    itself.

    Attributes:
        deviation: of the noise, in every parameter.
    """

    deviation: float = 0.02


Acting = Stochastic | EpsilonGreedy | LaneEpsilons | SquashedGaussian | NoisyActions | Perturbed
"""All of them."""
