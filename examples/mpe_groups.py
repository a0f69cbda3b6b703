"""Tasks of MPE2 in which agents work together, as groups.

    pip install -e '.[mpe]'
    cd examples
    policy-server train --run MADDPG --env mpe_groups:SpeakerListenerReals-v0 --config mpe_maddpg.toml
    policy-server train --run MAPPO --env mpe_groups:Spread-v0 --config mpe_mappo.toml

SpeakerListener: a speaker that cannot move sees to which of three landmarks a listener should go, and
the listener hears one of three words. Both lose its squared distance from there at each step.

Spread: three agents must cover three landmarks. All lose the distance of each landmark from whoever is
nearest, and whoever collides loses more.

Agents choose a direction or a word; in the tasks with Reals they push with a force, and words are
three numbers. An episode has 25 steps.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import gymnasium

from sim_clients.groups import GroupEnv

STEPS = 25


def group(task: str, **options: Any) -> GroupEnv:
    """A task of MPE2, whose agents are told apart what each of them got."""
    module = importlib.import_module(f"mpe2.{task}")
    return GroupEnv(module.parallel_env(max_cycles=STEPS, **options), rewards="each")


for _name, _task in (
    ("SpeakerListener", "simple_speaker_listener_v4"),
    ("Spread", "simple_spread_v3"),
):
    for _kind, _reals in (("", False), ("Reals", True)):
        gymnasium.register(
            f"{_name}{_kind}-v0",
            functools.partial(group, _task, continuous_actions=_reals),
            disable_env_checker=True,
        )
