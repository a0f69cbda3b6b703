"""What one tick does to the rows of an unroll store, each in one compiled loop.

`lanes` are int64[n], each once; `base`, `t` and `pending` are kept by lane, the other columns by
row of the pool. See `rollouts.unrolls` for what they mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from policy_server.compiled import compiled, part

NONE = -1
"""Base of a lane that does not record."""


@part
def _put_action(
    i: Any,
    row: Any,
    categories: Any,
    reals: Any,
    logp: Any,
    to_categories: Any,
    to_reals: Any,
    to_logp: Any,
) -> None:
    for k in range(categories.shape[1]):
        to_categories[row, k] = categories[i, k]
    for k in range(reals.shape[1]):
        to_reals[row, k] = reals[i, k]
    to_logp[row] = logp[i]


@compiled(
    "i8(i8[::1], i8[:,::1], f4[:,::1], f4[::1], i8, i8[::1], i8[::1], i8[::1], b1[::1],"
    " i8[:,::1], f4[:,::1], f4[::1], i8[::1], i8[::1], i8[::1])"
)
def begin_steps(
    lanes: np.ndarray,
    categories: np.ndarray,
    reals: np.ndarray,
    logp: np.ndarray,
    version: int,
    episodes: np.ndarray,
    base: np.ndarray,
    t: np.ndarray,
    pending: np.ndarray,
    to_categories: np.ndarray,
    to_reals: np.ndarray,
    to_logp: np.ndarray,
    to_versions: np.ndarray,
    to_episodes: np.ndarray,
    rows: np.ndarray,
) -> int:
    """Actions that were just sent, into their rows, which are written to `rows`. If lanes have
    no block, returns how many, and nothing has happened. `episodes` is kept by lane."""
    without = 0
    for i in range(len(lanes)):
        without += base[lanes[i]] == NONE
    if without:
        return without
    for i in range(len(lanes)):
        lane = lanes[i]
        row = rows[i] = base[lane] + t[lane]
        _put_action(i, row, categories, reals, logp, to_categories, to_reals, to_logp)
        to_versions[row] = version
        to_episodes[row] = episodes[lane]
        pending[lane] = True
    return 0


@compiled(
    "i8(i8[::1], f4[::1], b1[::1], b1[::1], i8[::1], i8[::1], b1[::1], f4[::1], b1[::1], b1[::1], i8)"
)
def complete_steps(
    lanes: np.ndarray,
    rewards: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    base: np.ndarray,
    t: np.ndarray,
    pending: np.ndarray,
    to_rewards: np.ndarray,
    to_terminated: np.ndarray,
    to_truncated: np.ndarray,
    length: int,
) -> int:
    """Outcomes of pending steps, into their rows; returns how many unrolls are full now."""
    full = 0
    for i in range(len(lanes)):
        lane = lanes[i]
        pending[lane] = False
        if base[lane] == NONE:
            continue
        row = base[lane] + t[lane]
        to_rewards[row] = rewards[i]
        to_terminated[row] = terminated[i]
        to_truncated[row] = truncated[i]
        t[lane] += 1
        full += t[lane] == length
    return full


@compiled(
    "b1(i8[::1], f4[::1], i8[:,::1], f4[:,::1], f4[::1], i8, i8[::1], i8[::1], i8[::1], b1[::1],"
    " f4[::1], b1[::1], b1[::1], i8[:,::1], f4[:,::1], f4[::1], i8[::1], i8[::1], i8, i8[::1])"
)
def go_on(
    lanes: np.ndarray,
    rewards: np.ndarray,
    categories: np.ndarray,
    reals: np.ndarray,
    logp: np.ndarray,
    version: int,
    episodes: np.ndarray,
    base: np.ndarray,
    t: np.ndarray,
    pending: np.ndarray,
    to_rewards: np.ndarray,
    to_terminated: np.ndarray,
    to_truncated: np.ndarray,
    to_categories: np.ndarray,
    to_reals: np.ndarray,
    to_logp: np.ndarray,
    to_versions: np.ndarray,
    to_episodes: np.ndarray,
    length: int,
    rows: np.ndarray,
) -> bool:
    """`complete_steps` without endings and `begin_steps` in one. False, and nothing has happened,
    if a lane has no block, no pending step, or none left in its block after this one."""
    for i in range(len(lanes)):
        lane = lanes[i]
        if base[lane] == NONE or not pending[lane] or t[lane] + 1 >= length:
            return False
    for i in range(len(lanes)):
        lane = lanes[i]
        row = base[lane] + t[lane]
        to_rewards[row] = rewards[i]
        to_terminated[row] = False
        to_truncated[row] = False
        t[lane] += 1
        row += 1
        rows[i] = row
        _put_action(i, row, categories, reals, logp, to_categories, to_reals, to_logp)
        to_versions[row] = version
        to_episodes[row] = episodes[lane]
    return True


@compiled("i8(i8[::1], i8[::1], i8[::1], b1[::1], i8)")
def count_wanting(
    lanes: np.ndarray, base: np.ndarray, t: np.ndarray, pending: np.ndarray, length: int
) -> int:
    """How many lanes need a new unroll for their next step."""
    count = 0
    for i in range(len(lanes)):
        lane = lanes[i]
        count += base[lane] == NONE or t[lane] + pending[lane] >= length
    return count
