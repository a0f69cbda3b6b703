"""Algorithms by name."""

import subprocess
import sys

import pytest

from policy_server import algorithms
from policy_server.algorithms.own_loss import OwnLoss
from policy_server.algorithms.own_loss_options import OwnLossTraining
from policy_server.errors import ConfigError


def test_finds_ppo() -> None:
    training, algorithm = algorithms.get("PPO")
    assert (training.__name__, algorithm.__name__) == ("PPOTraining", "PPO")
    assert "PPO" in algorithms.names()


@pytest.mark.parametrize("name", ["ppo", "PPPO", "PPO2"])
def test_unknown_name_is_answered_with_the_nearest(name: str) -> None:
    with pytest.raises(ConfigError, match=f"got '{name}'. Did you mean 'PPO'"):
        algorithms.get(name)


def test_users_register_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "_PAGES", dict(algorithms._PAGES))

    training, page = OwnLossTraining, OwnLoss
    algorithms.register("Mine", training, page)
    algorithms.register("Mine", training, page)
    assert algorithms.get("Mine") == (training, page)
    with pytest.raises(ConfigError, match="registered already"):
        algorithms.register("Mine", training, training)
    algorithms.register("Gone", "no.such.module:A", "no.such.module:B")
    with pytest.raises(ConfigError, match=r"no\.such\.module:A.*cannot be imported"):
        algorithms.get("Gone")
    algorithms.register("NoClass", "math:pi", "math:pi")
    with pytest.raises(ConfigError, match="to be a class or a loss"):
        algorithms.get("NoClass")


def test_importing_the_registry_imports_no_torch() -> None:
    code = "import sys, policy_server.algorithms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
