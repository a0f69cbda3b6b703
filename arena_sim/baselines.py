"""Hand-written opponents: what a learned policy has to beat, and what it is measured against.

A policy is a function `(obs, rng) -> actions` over many arenas at once: obs int64 [n, 2] (own
cell, other's cell), actions int64 [n]. Nobody here remembers anything between steps or sees
more than a learner does.

`python -m arena_sim.baselines` prints what they get against each other.
"""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from arena_sim.arenas import Arenas
from arena_sim.returns import Returns
from arena_sim.rules import AGENT1, AGENT2, AGENTS, DOWN, LEFT, NUM_ACTIONS, RIGHT, UP

Policy = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def random(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Any action, each as likely as the others."""
    return rng.integers(NUM_ACTIONS, size=len(obs))


@dataclass(frozen=True)
class Boustrophedon:
    """Walks over all cells row by row, as the ox ploughs: even rows to the right, odd to the left.

    From the top left corner it meets every cell once; the last one's wall then holds it. It does
    not look where the other agent is, and bumps until that one is gone.
    """

    width: int

    def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        rows, columns = np.divmod(obs[:, 0], self.width)
        to_the_right = rows % 2 == 0
        last = np.where(to_the_right, columns == self.width - 1, columns == 0)
        return np.where(last, DOWN, np.where(to_the_right, RIGHT, LEFT))


@dataclass(frozen=True)
class Chaser:
    """Moves towards the other agent: first into its row, then along it, until it bumps.

    Rows first is worth something: it presses its prey against a wall, out of which a random
    walk rarely comes. Taking the longer distance first, ties by coin, earns 42 instead of 48.
    """

    width: int

    def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        rows, columns = np.divmod(obs, self.width)
        below = rows[:, 1] - rows[:, 0]
        beside = columns[:, 1] - columns[:, 0]
        along_row = np.where(beside > 0, RIGHT, LEFT)
        return np.where(below > 0, DOWN, np.where(below < 0, UP, along_row))


_MAKERS: dict[str, Callable[[int], Policy]] = {
    "random": lambda width: random,
    "boustrophedon": Boustrophedon,
    "chaser": Chaser,
}
NAMES = tuple(_MAKERS)


def make(name: str, width: int) -> Policy:
    """The baseline called `name`, for grids of `width` columns.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in _MAKERS:
        close = difflib.get_close_matches(name, NAMES, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"expected a baseline among {', '.join(NAMES)}, got '{name}'.{hint}")
    return _MAKERS[name](width)


def measure(
    policy1: Policy,
    policy2: Policy,
    episodes: int,
    *,
    width: int = 10,
    height: int = 10,
    max_steps: int = 100,
    seed: int | None = None,
) -> Returns:
    """Plays exactly `episodes` whole episodes, policy1 as agent1 and policy2 as agent2.

    All of them at once: about `width * height` bytes of memory for each.

    Raises:
        ValueError: fewer than one episode, or an impossible arena.
    """
    if episodes < 1:
        raise ValueError(f"expected at least one episode, got {episodes}.")
    rng = np.random.default_rng(seed)
    arenas = Arenas(episodes, width, height, max_steps)
    returns = Returns(episodes)
    obs = arenas.reset()
    for _ in range(max_steps):
        step = arenas.step(policy1(obs[AGENT1], rng), policy2(obs[AGENT2], rng))
        returns.add(step)
        obs = step.obs
    return returns


def play(
    policy1: Policy,
    policy2: Policy,
    episodes: int,
    *,
    width: int = 10,
    height: int = 10,
    max_steps: int = 100,
    seed: int | None = None,
) -> dict[str, float]:
    """Mean undiscounted return per agent over exactly `episodes` episodes.

    Raises:
        ValueError: fewer than one episode, or an impossible arena.
    """
    returns = measure(
        policy1, policy2, episodes, width=width, height=height, max_steps=max_steps, seed=seed
    )
    return {agent: returns.mean(agent) for agent in AGENTS}


def main(arguments: list[str] | None = None) -> None:
    """Prints a table: what the baselines get against each other."""
    parser = argparse.ArgumentParser(
        prog="python -m arena_sim.baselines",
        description="Mean returns (and their standard errors) of hand-written policies.",
    )
    parser.add_argument("--size", type=int, default=10, help="cells per side")
    parser.add_argument("--steps", type=int, default=100, help="steps of an episode")
    parser.add_argument("--episodes", type=int, default=2000, help="per row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    print(f"{options.size} x {options.size} cells, {options.steps} steps, ", end="")
    print(f"{options.episodes} episodes per row")
    print(f"{'agent1':<14} {'agent2':<7} {'return 1':>16} {'return 2':>16} {'sum':>7}")
    for name1 in ("random", "boustrophedon"):
        for name2 in ("random", "chaser"):
            returns = measure(
                make(name1, options.size),
                make(name2, options.size),
                options.episodes,
                width=options.size,
                height=options.size,
                max_steps=options.steps,
                seed=options.seed,
            )
            cells = [
                f"{returns.mean(agent):8.2f} ± {_standard_error(returns, agent):5.2f}"
                for agent in AGENTS
            ]
            total = returns.mean(AGENT1) + returns.mean(AGENT2)
            print(f"{name1:<14} {name2:<7} {cells[0]:>16} {cells[1]:>16} {total:7.2f}")


def _standard_error(returns: Returns, agent: str) -> float:
    return returns.deviation(agent) / math.sqrt(returns.episodes)


if __name__ == "__main__":
    main()
