"""How spaces are shown to people."""

from __future__ import annotations

import numpy as np
import pytest

from sim_clients.protocol.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Space,
    Tuple,
)


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (Box(-1, 1, (2,)), "Box(-1, 1, (2,), float32)"),
        (Box(0, 255, (84, 84, 4), "uint8"), "Box(0, 255, (84, 84, 4), uint8)"),
        (Box([-4.8, -np.inf], [4.8, np.inf], (2,)), "Box([-4.8, -inf], [4.8, inf], (2,), float32)"),
        (Box(np.arange(6), 9, (6,)), "Box([0, 1, 2, 3, ...], 9, (6,), float32)"),
        (Box(0, 1, (0,)), "Box([], [], (0,), float32)"),
        (Discrete(4), "Discrete(4)"),
        (Discrete(4, start=1), "Discrete(4, start=1)"),
        (MultiDiscrete([3, 2]), "MultiDiscrete([3, 2], (2,))"),
        (MultiDiscrete([3, 2], start=[0, 5]), "MultiDiscrete([3, 2], (2,), start=[0, 5])"),
        (MultiBinary(3), "MultiBinary((3,))"),
        (Discrete(4, dtype="int32"), "Discrete(4, int32)"),
        (MultiBinary(3, dtype="uint8"), "MultiBinary((3,), uint8)"),
        (
            Dict({"a": Discrete(2), "b": Tuple([Box(0, 1), Discrete(2)])}),
            "Dict(a: Discrete(2), b: Tuple(Box(0, 1, (), float32), Discrete(2)))",
        ),
    ],
)
def test_spaces_are_shown_short(space: Space, text: str) -> None:
    assert str(space) == text
