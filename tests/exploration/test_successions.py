"""Which observation lies behind which step."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from handmade import poison_padding

from policy_server.exploration import successions
from policy_server.exploration.successions import Successions
from policy_server.types import Batch
from tests.broken import broken

CPU = torch.device("cpu")


def batch() -> Batch:
    """Three unrolls of up to four steps: what is seen in row t of column b is 10 b + t, a true final
    observation is 90 and more, and an action is the number of its step in the order of time."""
    lengths = np.array([4, 2, 3])
    obs = (10.0 * np.arange(3) + np.arange(5)[:, None]).astype(np.float32)[..., None]
    terminated, truncated = np.zeros((4, 3), bool), np.zeros((4, 3), bool)
    terminated[1, 0] = truncated[2, 0] = truncated[1, 1] = terminated[2, 2] = True
    final_index = np.array([[1, 1], [2, 0]])
    made = Batch(
        obs=(obs,),
        categories=np.arange(12).reshape(4, 3, 1),
        reals=np.zeros((4, 3, 0), np.float32),
        logp=np.zeros((4, 3), np.float32),
        rewards=np.zeros((4, 3), np.float32),
        terminated=terminated,
        truncated=truncated,
        lengths=lengths,
        versions=np.zeros((4, 3), np.int64),
        lanes=np.array([5, 0, 7]),
        episodes=np.zeros((4, 3), np.int64),
        first_t=np.zeros(3, np.int64),
        masks=None,
        final_obs=(np.array([[91.0], [90.0]], np.float32),),
        final_index=final_index,
    )
    poison_padding(made)
    return made


EXPECTED = {
    # action: (seen before, seen behind), by hand
    0: (0, 1), 3: (1, None), 6: (2, 90), 9: (3, 4),
    1: (10, 11), 4: (11, 91),
    2: (20, 21), 5: (21, 22), 8: (22, None),
}  # fmt: skip


def agree(module: Any) -> None:
    steps = module.Successions(batch(), CPU)
    actions = sorted(EXPECTED)  # the order of time, lane after lane
    before = steps.obs[steps.rows][0].squeeze(1).tolist()
    assert before == [EXPECTED[action][0] for action in actions]
    known = [action for action in actions if EXPECTED[action][1] is not None]
    assert steps.followed.tolist() == [actions.index(action) for action in known]
    assert steps.next_rows.lt(0).sum() == 2
    pairs = steps.pairs(steps.followed)
    assert pairs.categories.squeeze(1).tolist() == known
    assert pairs.obs[0].squeeze(1).tolist() == [EXPECTED[action][0] for action in known]
    assert pairs.next_obs[0].squeeze(1).tolist() == [EXPECTED[action][1] for action in known]


def test_observations_before_and_behind() -> None:
    agree(successions)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("behind[batch.terminated] = -1", "pass"),
        ("behind[finals[:, 0], finals[:, 1]] = (", "_ = ("),
        ("np.arange(lanes, (steps + 1) * lanes)", "np.arange(steps * lanes)"),
        ("(steps + 1) * lanes + np.arange(len(finals))", "(steps + 1) * lanes + 1 - np.arange(2)"),
        ("behind.reshape(-1)[valid]", "behind.reshape(-1)[: valid.sum()]"),
    ],
)
def test_a_broken_line_shows(line: str, instead: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        agree(SimpleNamespace(**broken(successions, line, instead)))


def test_without_true_final_observations_nothing_is_copied() -> None:
    made = batch()
    made = dataclasses.replace(
        made, truncated=made.truncated & False, final_obs=(made.final_obs[0][:0],),
        final_index=made.final_index[:0],
    )  # fmt: skip
    steps = Successions(made, CPU)
    made.obs[0][0, 0] = 77.0
    assert steps.obs[steps.rows][0][0].item() == 77.0


def test_every_step_with_something_behind_it_comes_once() -> None:
    steps = Successions(batch(), CPU)
    parts = list(steps.shuffled(3, torch.Generator().manual_seed(1)))
    assert sorted(len(part.reals) for part in parts) == [2, 2, 3]
    seen = torch.cat([part.categories for part in parts]).squeeze(1).tolist()
    assert sorted(seen) == [a for a in sorted(EXPECTED) if EXPECTED[a][1] is not None]
    assert seen != sorted(seen)


def test_what_is_unknown_is_worth_nothing() -> None:
    steps = Successions(batch(), CPU)
    found = steps.by_time(steps.evaluate(lambda pairs: pairs.next_obs[0].squeeze(1)))
    expected = [[1, 11, 21], [0, 91, 22], [90, 0, 0], [4, 0, 0]]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
