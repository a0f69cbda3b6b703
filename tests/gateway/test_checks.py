"""A row is refused exactly when a rule that looks at it alone says so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_server.gateway.columns import Columns
from policy_server.gateway.row_error import RowError
from sim_clients.protocol import Box, Dict, Discrete, ErrorCode, Tuple
from sim_clients.protocol.spaces import Leaf, MultiBinary, MultiDiscrete, leaves
from tests.gateway.seats import Desk

FIRST, TERMINATED, TRUNCATED, LEAVING, CONTINUED = 1, 2, 4, 8, 16

OBSERVATION = Dict(
    {
        "bits": Box(0, 9, (2,), "uint64"),
        "count": Box(0, 9, (2,), "int32"),  # is never too large
        "far": Box(-1, 1, (2,), "float64"),
        "half": Box(-1, 1, (3,), "float16"),
        "long": Box(0, 9, (2,), "int64"),
        "pick": Discrete(3, start=-1),
        "plain": Box(-1, 1, (2, 2)),
        "several": MultiDiscrete([2, 3], start=[1, 0]),
    }
)
ACTION = Tuple([MultiDiscrete([2, 3]), Box(-1, 3, (1,)), MultiBinary(1)])
OPTIONS = [2, 3, 2]  # of each choice: a mask has seven columns
DESK = Desk("d", OBSERVATION, ACTION, mask=True)
REWARDS = [0.0, -0.0, 1e9, -1e9, 1.1e9, -1.1e9, 1.0000001e9, math.nan, math.inf, -math.inf]
NUMBERS = [0.0, -1.0, 1e10, -1e10, 1.1e10, -1e11, 6e4, math.nan, math.inf, -math.inf]
CHOICES = [-(2**31), -2, -1, 0, 1, 2, 3, 4]
INTEGERS = [-(2**63), -(10**10) - 1, -(10**10), 0, 2**31, 10**10, 10**10 + 1, 2**63 - 1]


def allowed_flags(flags: int) -> bool:
    """The table of `docs/PROTOCOL.md` in words: an ending is one of two and is followed by a
    beginning or by leaving; who joins in says nothing of before."""
    ended, first = flags & (TERMINATED | TRUNCATED), flags & FIRST
    if flags > 31 or ended == (TERMINATED | TRUNCATED):
        return False
    if flags & CONTINUED:
        return not (ended or first)
    return bool(first) != bool(flags & LEAVING) if ended else True


def good_leaf(value: np.ndarray, leaf: Leaf) -> bool:
    numbers = value.reshape(-1).tolist()
    if isinstance(leaf, Box):
        return all(math.isfinite(number) and abs(number) <= 1e10 for number in numbers)
    if isinstance(leaf, Discrete):
        return all(leaf.start <= number < leaf.start + leaf.n for number in numbers)
    if isinstance(leaf, MultiBinary):
        return all(number in (0, 1) for number in numbers)
    bounds = zip(leaf.start.tolist(), leaf.nvec.tolist(), strict=True)
    return all(a <= number < a + n for number, (a, n) in zip(numbers, bounds, strict=True))


def faults(columns: Columns, opened: np.ndarray, busy: np.ndarray, row: int) -> set[str]:
    """Codes of everything that is wrong with a row."""
    slot, flags = int(columns.slots[row]), int(columns.flags[row])
    reward = float(columns.rewards[row])
    found = set()
    if not allowed_flags(flags):
        found.add(ErrorCode.BAD_FLAGS)
    ended = bool(flags & (TERMINATED | TRUNCATED))
    if not opened[slot] and (ended or not flags & (FIRST | CONTINUED)):
        found.add(ErrorCode.BAD_FLAGS)
    if not math.isfinite(reward) or abs(reward) > 1e9:
        found.add(ErrorCode.BAD_REWARD)
    if busy[slot]:
        found.add(ErrorCode.BAD_LANE)
    for column, (_, leaf) in zip(columns.observations, leaves(OBSERVATION), strict=True):
        if not good_leaf(column[row], leaf):
            found.add(ErrorCode.BAD_OBSERVATION)
    options = columns.mask[row].tolist()
    for count in OPTIONS:
        of_this, options = options[:count], options[count:]
        if not any(of_this):
            found.add(ErrorCode.BAD_MASK)
    finals, final_leaves = columns.finals or ([], [])
    if flags & TRUNCATED and not flags & LEAVING and row not in list(finals):
        found.add(ErrorCode.BAD_OBSERVATION)
    if row in list(finals) and not flags & (TERMINATED | TRUNCATED):
        found.add(ErrorCode.BAD_OBSERVATION)
    for at in np.flatnonzero(np.array(finals) == row):
        for column, (_, leaf) in zip(final_leaves, leaves(OBSERVATION), strict=True):
            if not good_leaf(column[at], leaf):
                found.add(ErrorCode.BAD_OBSERVATION)
    executed, executed_leaves = columns.executed or ([], [])
    for at in np.flatnonzero(np.array(executed) == row):
        for column, (_, leaf) in zip(executed_leaves, leaves(ACTION), strict=True):
            inside = not isinstance(leaf, Box) or -1.00003 <= column[at].item() <= 3.00003
            told = opened[slot] and not flags & CONTINUED and (ended or not flags & FIRST)
            if not (good_leaf(column[at], leaf) and (inside or not told)):
                found.add(ErrorCode.BAD_ACTION)
    return found


def judge(columns: Columns, opened: np.ndarray, busy: np.ndarray) -> bool:
    """Checks the check. True if the columns were good."""
    expected = [faults(columns, opened, busy, row) for row in range(len(columns.slots))]
    refusal: RowError | None = None
    try:
        DESK.checks.check(columns, opened, busy)
    except RowError as error:
        refusal = error
    if refusal is not None:
        assert refusal.code in expected[refusal.row], (refusal, expected)
        return False
    assert not any(expected), "nothing was found"
    assert columns.quiet == (not any(columns.flags.tolist()))
    return True


def good_columns(n: int, slots: list[int] | None = None) -> Columns:
    """Rows that nothing is wrong with, of lanes whose episode goes on."""
    observations = [
        np.full((n, *leaf.shape), 1, leaf.dtype) for _, leaf in leaves(OBSERVATION)
    ]  # 1 is in all of them
    numbers = np.array(range(n) if slots is None else slots, np.int64)
    mask = np.ones((n, 7), np.uint8)
    return Columns(numbers, np.zeros(n, np.uint8), np.zeros(n, np.float32), observations, mask)


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("opened", [False, True])
def test_every_flag_byte_in_every_state(opened, busy):
    passed = 0
    for flags in range(256):
        for final in (False, True):
            columns = good_columns(3, [4, 0, 2])
            columns.flags[1] = flags
            if final:
                columns.finals = np.array([1]), [leaf[1:2] for leaf in columns.observations]
            state = np.ones(5, bool), np.zeros(5, bool)
            state[0][0], state[1][0] = opened, busy
            passed += judge(columns, *state)
    # On an open lane the ten of the table, one of which needs its final observation, and four of
    # which may have one; on a closed one FIRST or CONTINUED, leaving at once or not.
    assert passed == (0 if busy else 9 + 4 if opened else 4)


def values_of(leaf: Leaf) -> list[Any]:
    """Good and bad ones for it."""
    if leaf.dtype.kind == "f":
        return NUMBERS
    if leaf.dtype.itemsize == 8 and isinstance(leaf, Box):
        return [number for number in INTEGERS if leaf.dtype.kind == "i" or number >= 0]
    return CHOICES


def test_every_number_in_every_leaf():
    state = np.ones(3, bool), np.zeros(3, bool)
    refused = {}
    for i, (path, leaf) in enumerate(leaves(OBSERVATION)):
        for number in values_of(leaf):
            for element in range(int(np.prod(leaf.shape))):
                columns = good_columns(3)
                with np.errstate(over="ignore"):
                    columns.observations[i][2].reshape(-1)[element:] = number
                    if leaf.shape == ():
                        columns.observations[i][2] = number
                refused[path] = refused.get(path, 0) + (not judge(columns, *state))
    assert refused[".count"] == 0
    assert (refused[".long"], refused[".bits"]) == (4 * 2, 2 * 2)
    # Numbers that float16 cannot hold come as infinity.
    assert (refused[".plain"], refused[".far"], refused[".half"]) == (5 * 4, 5 * 2, 7 * 3)


@pytest.mark.parametrize("reward", REWARDS)
def test_every_reward(reward):
    columns = good_columns(2)
    columns.rewards[1] = reward
    passed = judge(columns, np.ones(2, bool), np.zeros(2, bool))
    assert passed == (abs(reward) <= 1e9)


def mostly(good: Any, bad: Any) -> Any:
    return st.integers(0, 30).flatmap(lambda chance: bad if chance == 0 else good)


@st.composite
def ticks(draw: Any) -> tuple[Columns, np.ndarray, np.ndarray]:
    """Rows most of which are good, so that whole ticks often are."""
    n, lanes = draw(st.integers(0, 6)), 8
    opened = np.array(draw(st.lists(st.booleans(), min_size=lanes, max_size=lanes)))
    busy = np.array(draw(st.lists(mostly(st.just(False), st.just(True)), min_size=8, max_size=8)))
    columns = good_columns(n, draw(st.permutations(range(lanes)))[:n])

    def spoil(leaf: Leaf, column: np.ndarray) -> None:
        values = values_of(leaf)
        flat = column.reshape(-1)
        if len(flat) and draw(st.integers(0, 25)) == 0:
            with np.errstate(over="ignore"):
                value = np.array(draw(st.sampled_from(values))).astype(leaf.dtype)
                flat[draw(st.integers(0, len(flat) - 1))] = value

    for i, slot in enumerate(columns.slots.tolist()):
        sensible = [0, 0, 0, 3, 10, 5, 12, 8, 16] if opened[slot] else [1, 1, 16, 9]
        flags = mostly(st.sampled_from(sensible), st.integers(0, 255))
        columns.flags[i] = draw(flags)
        columns.rewards[i] = draw(mostly(st.just(1.0), st.sampled_from(REWARDS)))
    for (_, leaf), column in zip(leaves(OBSERVATION), columns.observations, strict=True):
        spoil(leaf, column)
    for i in range(n):
        hidden = st.lists(st.integers(0, 6), max_size=5)
        columns.mask[i, draw(mostly(st.just([]), hidden))] = 0
    truncated = np.flatnonzero((columns.flags & (TRUNCATED | LEAVING)) == TRUNCATED)
    rows = [row for row in truncated.tolist() if draw(st.integers(0, 9))]
    if rows:
        final = [np.ones((len(rows), *leaf.shape), leaf.dtype) for _, leaf in leaves(OBSERVATION)]
        for (_, leaf), column in zip(leaves(OBSERVATION), final, strict=True):
            spoil(leaf, column)
        columns.finals = np.array(rows), final
    rows = draw(st.lists(st.integers(0, n - 1), unique=True, max_size=2)) if n else []
    if rows:
        executed = [np.zeros((len(rows), *leaf.shape), leaf.dtype) for _, leaf in leaves(ACTION)]
        for (_, leaf), column in zip(leaves(ACTION), executed, strict=True):
            spoil(leaf, column)
        columns.executed = np.array(rows), executed
    return columns, opened, busy


def test_whole_ticks():
    verdicts = []

    @settings(max_examples=250, deadline=None, derandomize=True)
    @given(ticks())
    def run(tick):
        columns, opened, busy = tick
        before = opened.copy(), busy.copy()
        verdicts.append(judge(columns, opened, busy))
        np.testing.assert_array_equal((opened, busy), before)

    run()
    assert min(verdicts.count(True), verdicts.count(False)) > 40, "ticks of both kinds"
