"""What simulators will declare is looked at before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

from policy_server.declared import check_declared
from policy_server.errors import UnsupportedSpaceError
from policy_server.settings import Settings


class Numbers(gymnasium.Env[Any, Any]):
    """Gives numbers for actions, and says a mask of nothing."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, trouble: str = ""):
        self.trouble = trouble
        if trouble == "make":
            raise KeyError("no licence")

    def close(self) -> None:
        if self.trouble == "close":
            raise RuntimeError("never reset")


@pytest.fixture(autouse=True)
def numbers() -> Iterator[None]:
    gymnasium.register("Numbers-v0", Numbers)
    yield
    gymnasium.registry.pop("Numbers-v0")


def settings(algorithm: str, **environment: Any) -> Settings:
    mapping = {
        "algorithm": algorithm,
        "environment": {"env": "Numbers-v0", **environment},
        "simulators": {"num": 1},
    }
    return Settings.from_mapping(mapping)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UnsupportedSpaceError, match="DQN: expected an action space of Discrete"):
        check_declared(settings("DQN"))
    check_declared(settings("SAC"))


def test_an_environment_that_cannot_be_made_has_its_own_words_later() -> None:
    check_declared(settings("DQN", env_kwargs={"trouble": "make"}))
    check_declared(settings("SAC", env_kwargs={"trouble": "close"}))
