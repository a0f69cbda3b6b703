"""Epsilon-greedy for several choices at once, as agents of a group make them: each by itself."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from chi_square import counts_fit

from policy_server.acting import EpsilonGreedy
from policy_server.inference import epsilon_greedy
from policy_server.types import ActionLayout
from sim_clients.protocol.spaces import Dict, Discrete
from tests.broken import broken

CHOICES = (3, 2, 4)
LAYOUT = ActionLayout(Dict({name: Discrete(n) for name, n in zip("abc", CHOICES, strict=True)}))
# The best of all is no option of the first agent's, and the best of the last's is the very last.
VALUES = np.array([[5.0, 1.0, 2.0, -4.0, -3.0, 0.0, 1.0, 2.0, 3.0]], np.float32)
MASK = np.array([[0, 1, 1, 1, 1, 1, 0, 1, 0]], np.uint8)
BEST = {False: (0, 1, 3), True: (2, 1, 2)}
EPSILON = 0.4
ACTING = EpsilonGreedy(((0, 1.0), (100, EPSILON)))
N = 40_000


def expected(masked: bool) -> np.ndarray:
    """Probability of each joint choice, `[3, 2, 4]`, agent by agent."""
    each, start = [], 0
    for n, best in zip(CHOICES, BEST[masked], strict=True):
        allowed = MASK[0, start : start + n] != 0 if masked else np.ones(n, bool)
        p = np.where(allowed, EPSILON / allowed.sum(), 0.0)
        p[best] += 1.0 - EPSILON
        each.append(p)
        start += n
    return np.einsum("i,j,k->ijk", *each)


def drawn(module: dict[str, Any], masked: bool, greedy: bool = False) -> Any:
    chooser = module["EpsilonGreedyChooser"](LAYOUT, ACTING)
    uniform = np.random.default_rng(0).random((N, chooser.noise_width))
    return chooser.choose(
        np.repeat(VALUES, N, axis=0), None, np.repeat(MASK, N, axis=0) if masked else None,
        uniform, np.ones(N, bool) if greedy else None, 100, np.zeros(N, np.int64),
    )  # fmt: skip


def drawn_as_expected(module: dict[str, Any], masked: bool) -> bool:
    choice = drawn(module, masked)
    counts = np.zeros(CHOICES, np.int64)
    np.add.at(counts, tuple(choice.categories.T), 1)
    return counts_fit(counts, expected(masked))


@pytest.mark.parametrize("masked", [False, True])
def test_each_explores_by_itself(masked: bool) -> None:
    assert drawn_as_expected(vars(epsilon_greedy), masked)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("mask[:, start:end] != 0", "mask[:, start:end] == 0"),
        ("share = epsilon / allowed.sum(axis=1, keepdims=True)", "share = epsilon / part.shape[1]"),
        ("np.where(allowed, part, FORBIDDEN).argmax", "part.argmax"),
        ("result[rows, start + best] += 1.0", "result[rows, best] += 1.0"),
    ],
)
def test_a_mistake_would_show(line: str, instead: str) -> None:
    assert not drawn_as_expected(broken(epsilon_greedy, line, instead), masked=True)


@pytest.mark.parametrize("masked", [False, True])
def test_log_probabilities_are_those_of_all_choices_together(masked: bool) -> None:
    choice, p = drawn(vars(epsilon_greedy), masked), expected(masked)
    for joint in itertools.product(*map(range, CHOICES)):
        logp = choice.logp[(choice.categories == joint).all(1)]
        assert np.allclose(np.exp(logp), p[joint], rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_greedy_is_everybodys_best_of_what_is_allowed(masked: bool) -> None:
    choice = drawn(vars(epsilon_greedy), masked, greedy=True)
    assert (choice.categories == BEST[masked]).all()
