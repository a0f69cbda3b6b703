"""The MultiAgentArena: two agents with opposite wishes on one grid, as a simulator process.

`rules.Arena` is the game, one arena at a time and easy to read; `arenas.Arenas` is the same
game for many arenas at once; `python -m arena_sim` connects many of them to a policy server.
This package needs numpy only, except `parallel` (PettingZoo), `solo` (Gymnasium) and the
connection itself (`simulator`, which knows the server only through `sim_clients`).
"""

from arena_sim.arenas import Arenas, ArenaStep
from arena_sim.rules import AGENTS, Arena

__all__ = ["AGENTS", "Arena", "ArenaStep", "Arenas"]
