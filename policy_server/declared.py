"""What the simulators of a run will declare, and whether the algorithms can work with it: asked
before anything is started."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from policy_server.settings import Settings
from policy_server.types import PolicySpaces
from sim_clients.columns import Group
from sim_clients.space_conversion import as_space


def check_declared(settings: Settings) -> None:
    """Makes one environment, where some algorithm is particular about spaces, and looks at it.

    Raises:
        UnsupportedSpaceError: an algorithm cannot work with what its policy would see or do.
    """
    policies = {name: settings.policy_settings(name) for name in settings.multi_agent.policies}
    if all(own.training.supports.any_space for own in policies.values()):
        return
    for name, group in _declared(settings).items():
        policy = next(
            (p for pattern, p in settings.multi_agent.policy_mapping.items()
             if fnmatchcase(name, pattern)),
            None,
        )  # fmt: skip
        if policy is not None:
            own = policies[policy]
            spaces = PolicySpaces(
                as_space(group.observation_space), as_space(group.action_space), group.mask
            )
            own.training.supports.check_spaces(own.algorithm, spaces)


class _Told(Exception):
    """A simulator has said all that we want to know."""

    def __init__(self, groups: dict[str, Group]):
        self.groups = groups


def _declared(settings: Settings) -> dict[str, Group]:
    """Group name -> what a simulator declares of it; nothing if it cannot be made, which the
    simulators will say in their own words."""
    env, kwargs = settings.environment.env, settings.environment.env_kwargs
    mask = settings.environment.action_mask
    if env is None or not settings.simulators.num:
        return {}
    if env == "arena":
        from arena_sim.arenas import Arenas
        from arena_sim.simulator import groups

        return groups(Arenas(1, int(kwargs.get("size", 10)), int(kwargs.get("size", 10)), 1))

    def told(groups: Any) -> Any:
        raise _Told(groups if isinstance(groups, dict) else {"default": groups})

    envs: list[Any] = []
    try:
        with _modules_of_this_folder():
            if env.startswith("pettingzoo:"):
                from sim_clients import pettingzoo

                envs = pettingzoo.make_environments(env.removeprefix("pettingzoo:"), 1, kwargs)
                pettingzoo.PettingZooSimulator(told, envs, action_mask=mask)
            else:
                from sim_clients import gymnasium

                envs = gymnasium.make_environments(env, 1, kwargs)
                gymnasium.GymnasiumSimulator(told, envs, action_mask=mask)
    except _Told as answer:
        return answer.groups
    except Exception:  # whatever the user's own environment has to say
        return {}
    finally:
        for one in envs:
            with contextlib.suppress(Exception):
                one.close()
    raise AssertionError("a simulator that does not ask for a client")


@contextlib.contextmanager
def _modules_of_this_folder() -> Iterator[None]:
    """Environments are found where simulators, started as `python -m`, find them: in the working
    directory, too."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
