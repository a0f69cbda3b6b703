"""Algorithms by name."""

import subprocess
import sys

import pytest

from policy_server import algorithms
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

    class Training(algorithms.Training):
        pass

    class Mine:
        pass

    algorithms.register("Mine", Training, Mine)
    algorithms.register("Mine", Training, Mine)
    assert algorithms.get("Mine") == (Training, Mine)
    with pytest.raises(ConfigError, match="registered already"):
        algorithms.register("Mine", Training, Training)
    algorithms.register("Gone", "no.such.module:A", "no.such.module:B")
    with pytest.raises(ConfigError, match=r"no\.such\.module:A.*cannot be imported"):
        algorithms.get("Gone")
    algorithms.register("NoClass", "math:pi", "math:pi")
    with pytest.raises(ConfigError, match="to be a class or a loss"):
        algorithms.get("NoClass")


def test_importing_the_registry_imports_no_torch() -> None:
    code = "import sys, policy_server.algorithms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
