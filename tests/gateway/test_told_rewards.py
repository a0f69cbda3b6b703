"""Groups that say what each agent got: a row that does not add up is refused, no other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policy_server.gateway import told_rewards
from policy_server.gateway.columns import Columns
from policy_server.gateway.row_error import RowError
from tests.broken import broken

FIRST, TERMINATED, TRUNCATED, LEAVING, CONTINUED = 1, 2, 4, 8, 16


def columns(
    flags: int, told: list[float], reward: float, final: list[float] | None = None
) -> Columns:
    """One row that is like that, behind one that is right."""
    return Columns(
        np.array([4, 2]),
        np.array([0, flags], np.uint8),
        np.array([3.0, reward], np.float32),
        [np.zeros((2, 5), np.float32), np.array([[1, 2], told], np.float32)],
        None,
        finals=None
        if final is None
        else (np.array([1]), [np.zeros((1, 5), np.float32), np.array([final], np.float32)]),
    )


CASES = [
    # flags, told, reward, told finally, right
    (0, [2, -1], 1.0, None, True),
    (0, [2, -1], 1.1, None, False),
    (0, [4e6, -4e6], 1.0, None, True),  # float32 does not know better
    (0, [np.nan, 0], 1.0, None, True),  # somebody else refuses that
    (TERMINATED | FIRST, [2, -1], 1.0, None, True),
    (TERMINATED | FIRST, [2, -1], 2.0, None, False),
    (TERMINATED | LEAVING, [2, -1], 2.0, None, False),
    (TRUNCATED | LEAVING, [2, -1], 2.0, None, False),
    (TRUNCATED | FIRST, [9, 9], 1.0, [2, -1], True),
    (TRUNCATED | FIRST, [2, -1], 1.0, [9, 9], False),
    (FIRST, [2, -1], 0.0, None, True),  # nobody knows what was before
    (CONTINUED, [2, -1], 0.0, None, True),
]


def judge(module: Any) -> None:
    for flags, told, reward, final, right in CASES:
        check = module.ToldRewards(1).check
        one = columns(flags, told, reward, final)
        if right:
            check(one)
            continue
        with pytest.raises(RowError, match=r"observation\.rewards: expected what each") as error:
            check(one)
        assert (error.value.row, error.value.code) == (1, "bad_reward")


def test_a_row_that_does_not_add_up_is_refused() -> None:
    judge(told_rewards)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("(ended | ~first)", "~first"),
        ("(ended | ~first)", "True"),
        ("((flags & Flag.CONTINUED) == 0) & ", ""),
        ("told[rows] = leaves[self._leaf]", "pass"),
        ("(1.0 + size)", "1.0"),
    ],
)
def test_a_broken_line_shows(line: str, instead: str) -> None:
    with pytest.raises((AssertionError, RowError, pytest.fail.Exception)):
        judge(SimpleNamespace(**broken(told_rewards, line, instead)))
