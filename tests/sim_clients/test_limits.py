"""What numbers may be at most, and the referee that holds clients to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim_clients.conformance.referee import Referee
from sim_clients.protocol import Box, Discrete, Flag, GroupSpec, ProtocolError, Step, StepGroup
from sim_clients.protocol.limits import (
    NUMBER_LIMIT,
    REWARD_LIMIT,
    bounded,
    executed_range,
    rounding,
)


@pytest.mark.parametrize(
    ("box", "slack"),
    [
        (Box(-1, 1, (1,)), 1.012e-5),
        (Box(2, 3, (1,)), 0.53e-5),
        (Box(-1e-7, 1e-7, (1,)), 1.01e-12),
        (Box(1e6, 1e6 + 1, (1,), "float64"), 0.0626),  # a step of float32
        (Box(0.25, 0.5, (1,), "float16"), 0.00049),  # a step of float16
        (Box(-np.inf, np.inf, (1,)), 1.02e-5),
        (Box(-np.inf, 1e-3, (1,)), 1.02e-5),
        (Box(3, 3, (1,)), 2.4e-7),
    ],
    ids=str,
)
def test_room_for_rounding_is_a_part_of_the_range(box: Box, slack: float) -> None:
    (room,) = rounding(box)
    assert room <= slack
    assert room >= 0.98 * slack
    low, high = executed_range(box)
    assert low <= box.low
    assert high >= box.high


def test_what_float32_cannot_hold_is_no_bound() -> None:
    most = np.finfo(float).max
    box = Box(np.array([-most, 0, -np.inf]), np.array([most, most, 1]), (3,), "float64")
    assert bounded(box).tolist() == [False, False, False]
    assert np.isfinite(rounding(box)[2])
    assert bounded(Box(-1e38, 1e38, (2,))).all()


def judged(
    observation: Any = 0.0,
    reward: float = 0.0,
    action: Any = None,
    space: Any = Box(-1, 1, (1,)),  # noqa: B008
    dtype: str = "<f4",
) -> None:
    """What the referee says to the second step of a lane."""
    spec = GroupSpec("agent", Box(-1, 1, (1,), np.dtype(dtype).name), space, 1)
    referee = Referee((spec,))
    seen = [np.array([observation], dtype).tobytes()]
    first = StepGroup(None, bytes([Flag.FIRST]), bytes(4), [np.zeros(1, dtype).tobytes()], None)
    referee.judge(Step(1, (first,)))
    extras = None
    if action is not None:
        extras = {"action": [bytes(4), [np.array([action], space.dtype).tobytes()]]}
    reward_bytes = np.array([reward], "<f4").tobytes()
    referee.judge(Step(2, (StepGroup(None, b"\0", reward_bytes, seen, extras),)))


@pytest.mark.parametrize(
    "fine",
    [
        {"observation": NUMBER_LIMIT},
        {"observation": -int(NUMBER_LIMIT), "dtype": "<i8"},
        {"reward": REWARD_LIMIT},
        {"action": 1.0},
        {"action": 1.000005},
        {"action": 5.0, "space": Box(-np.inf, np.inf, (1,))},
        {"action": 5e10, "space": Box(-1e11, 1e11, (1,))},
        {"action": 3, "space": Discrete(3, start=1)},
    ],
    ids=str,
)
def test_the_referee_takes_what_servers_take(fine: dict[str, Any]) -> None:
    judged(**fine)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"observation": 1.01 * NUMBER_LIMIT}, "bad_observation"),
        ({"observation": np.nan}, "bad_observation"),
        ({"observation": 10**10 + 1, "dtype": "<i8"}, "bad_observation"),
        ({"reward": -1.01 * REWARD_LIMIT}, "bad_reward"),
        ({"reward": np.nan}, "bad_reward"),
        ({"action": 1.0001}, "bad_action"),
        ({"action": -5.0}, "bad_action"),
        ({"action": np.nan}, "bad_action"),
        ({"action": 2e10, "space": Box(-np.inf, np.inf, (1,))}, "bad_action"),
        ({"action": 0, "space": Discrete(3, start=1)}, "bad_action"),
        ({"action": 4, "space": Discrete(3, start=1)}, "bad_action"),
    ],
    ids=str,
)
def test_the_referee_refuses_what_servers_refuse(wrong: dict[str, Any], code: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        judged(**wrong)
    assert caught.value.code == code
