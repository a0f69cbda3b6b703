"""The game itself is light: numpy and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("gymnasium", "pettingzoo", "torch", "ray", "matplotlib", "pygame")


def imported_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return set(result.stdout.split())


@pytest.mark.parametrize("room", ["arenas", "rules", "baselines", "render", "returns"])
def test_the_game_needs_numpy_only(room):
    modules = imported_by(f"import arena_sim, arena_sim.{room}")
    assert modules.isdisjoint({*HEAVY, "zmq", "msgpack", "sim_clients", "policy_server"})


@pytest.mark.parametrize("room", ["simulator", "__main__"])
def test_the_simulator_knows_the_server_only_through_the_light_client(room):
    modules = imported_by(f"import arena_sim.{room}")
    assert "sim_clients" in modules
    assert modules.isdisjoint({*HEAVY, "policy_server"})
