"""The ring of steps against a plain list of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from other_dtype import refuses_halves
from streams import Lane, Streams

from policy_server.errors import CheckpointError, ConfigError
from policy_server.replay import steps as page
from policy_server.replay.draws import PrioritizedDraws, UniformDraws
from policy_server.replay.steps import StepBuffer
from tests.broken import broken

GAMMA = 0.9
CPU = torch.device("cpu")


def slow(lane: Lane, i: int, n: int, masked: bool) -> tuple[float, int, float]:
    """Return, observation that it bootstraps from (-1: none) and discount, one step after the
    other, as far as is known."""
    total, discount = 0.0, 1.0
    for k in range(n):
        step = lane.steps[i + k]
        total += discount * step.reward
        discount *= GAMMA
        if step.terminated:
            return total, -1, 0.0
        if step.truncated:
            behind, goes_on = step.final, False
        else:
            more = i + k + 1 < lane.given and i + k + 1 not in lane.lost
            behind = lane.steps[i + k + 1].obs if i + k + 1 < len(lane.steps) else lane.seen
            goes_on = more
        if not goes_on or k == n - 1:
            if masked and not goes_on:  # nobody knows what is allowed there: one step less
                last = lane.steps[i + k]
                return total - discount / GAMMA * last.reward, last.obs, discount / GAMMA
            return total, behind, discount
    raise AssertionError


def play(
    kind: type[StepBuffer],
    capacity: int,
    seed: int,
    n: int,
    masked: bool,
    losses: bool = True,
    room: bool = True,
) -> StepBuffer:
    """`room`: batches fit."""
    streams = Streams(5, seed)
    buffer = kind(capacity, CPU)
    for round_ in range(40):
        batch = streams.batch(7)
        if not masked:
            batch = dataclasses.replace(batch, masks=None)
        before = buffer.is_step.copy()
        gone, new = buffer.insert(batch, batch.rewards)
        assert before[gone].all()
        assert buffer.is_step[new].all()
        assert (len(new) == batch.steps) or not room
        assert len(new) > 0
        if losses and round_ % 7 == 3:
            streams.lose(int(streams.rng.integers(5)), 2)
        places = np.flatnonzero(buffer.is_step)
        assert buffer.steps == len(places)
        places = places[buffer.drawable(places)]
        found = streams.found()
        drawn = buffer.transitions(places, n, GAMMA)
        for row in range(len(places)):
            lane, i = found[int(drawn.obs[0][row])]
            step = lane.steps[i]
            assert int(drawn.categories[row, 0]) == step.action
            total, behind, discount = slow(lane, i, n, masked)
            assert float(drawn.rewards[row]) == pytest.approx(total, abs=1e-5)
            assert float(drawn.discounts[row]) == pytest.approx(discount, abs=1e-6)
            if behind >= 0:
                assert int(drawn.next_obs[0][row]) == behind
            if masked:
                assert drawn.mask[row].tolist() == step.mask.tolist()
                if behind >= 0:
                    other, j = found[behind]
                    assert drawn.next_mask[row].tolist() == other.steps[j].mask.tolist()
    assert buffer.inserted > 1.5 * capacity, "nothing was overwritten"
    return buffer


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 100])
def test_steps_lead_where_they_led(n: int, masked: bool) -> None:
    for seed in range(3):
        play(StepBuffer, 150 + 17 * seed, seed, n, masked)


def test_a_lane_that_goes_on_takes_one_row_per_step() -> None:
    streams = Streams(4, 0, endings=0.0)
    buffer = StepBuffer(10_000, CPU)
    steps = 0
    for _ in range(50):
        batch = streams.batch(3)
        buffer.insert(batch, batch.rewards)
        steps += batch.steps
    assert buffer.inserted == steps + 4  # and what each of four lanes sees now


def play_all(kind: type[StepBuffer]) -> None:
    for seed in range(4):
        for n in (1, 3):
            play(kind, 150 + 17 * seed, seed, n, masked=False)
            play(kind, 55, seed, n, masked=False)  # lanes find their last row overwritten


BREAKS = [
    ("tail[1:] == mine and tail[0] >= oldest", "tail[0] >= oldest"),
    ("tail[1:] == mine and tail[0] >= oldest", "tail[1:] == mine"),
    ("behind[finals[:, 0], finals[:, 1]] = final_numbers", "pass"),
    ("self.is_step[gone] = False", "pass"),
    ("going = going & self.is_step[reached]", "going = going"),
    ("discounts * self._rewards[reached].T, 0.0", "self._rewards[reached].T, 0.0"),
    ("np.where(over, 0.0, gamma * discounts)", "gamma * discounts"),
    ("reached = np.where(going, behind, reached)", "pass"),
    ("int(t[last]) + 1)", "int(t[last]))"),
    ("for some in turns", "for some in [np.arange(len(batch.lanes))]"),
    ("behind[valid] % self.capacity", "behind[valid] % (self.capacity - 1)"),
    ("range(n_step - 1)", "range(n_step)"),
]


@pytest.mark.parametrize(("line", "instead"), BREAKS)
def test_a_broken_line_shows(line: str, instead: str) -> None:
    kind = broken(page, line, instead)["StepBuffer"]
    with pytest.raises((AssertionError, IndexError, KeyError)):
        play_all(kind)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("found & (self._terminated[places] | self.is_step[self._next[places]])", "found"),
        ("going = going & (over | self.is_step[behind])", "pass"),
    ],
)
def test_a_broken_line_shows_where_actions_are_masked(line: str, instead: str) -> None:
    kind = broken(page, line, instead)["StepBuffer"]
    with pytest.raises((AssertionError, KeyError)):
        play(kind, 150, 0, 3, masked=True)


@pytest.mark.parametrize("masked", [False, True])
def test_of_a_batch_that_is_too_large_the_last_unrolls_are_kept(
    masked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    streams, capacity = Streams(5, 0), 16
    batch = streams.batch(7)
    while batch.steps <= capacity:
        batch = streams.batch(7)
    if not masked:
        batch = dataclasses.replace(batch, masks=None)
    buffer, other = StepBuffer(capacity, CPU), StepBuffer(capacity, CPU)
    _, new = buffer.insert(batch, batch.rewards)
    last = next(
        np.arange(b, len(batch.lanes))
        for b in range(len(batch.lanes))
        if batch.columns(np.arange(b, len(batch.lanes))).steps == len(new)
    )
    _, same = other.insert(batch.columns(last), batch.rewards[:, last])
    assert 0 < len(last) < len(batch.lanes)
    np.testing.assert_array_equal(new, same)
    for mine, theirs in zip(buffer.state()[0].values(), other.state()[0].values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    buffer.insert(batch, batch.rewards)
    assert caplog.text.count("holds less than a batch") == 1
    play(StepBuffer, capacity, 1, 1, masked, room=False)


def test_an_unroll_that_is_too_large_is_refused() -> None:
    streams = Streams(5, 0)
    batch = streams.batch(7)
    with pytest.raises(ConfigError, match=r"training\.buffer_size: expected room for an unroll"):
        StepBuffer(4, CPU).insert(batch, batch.rewards)


def test_its_memory_is_what_the_page_says() -> None:
    """Per row: the observation, 4 bytes per choice and number, 1 per option of a mask, and 14."""
    buffer = play(StepBuffer, 150, 0, 1, masked=True)
    assert buffer.nbytes == 150 * (4 + 4 + 3 + 14)
    several = StepBuffer(150, CPU)
    batch = Streams(5, 0).batch(7)
    several.insert(batch, np.zeros((*batch.rewards.shape, 3), np.float32))
    assert several.nbytes == 150 * (4 + 4 + 3 + 14 + 2 * 4)


@pytest.mark.parametrize("n", [1, 3])
def test_several_rewards_per_step_are_as_each_alone(n: int) -> None:
    """Also behind a restart half way."""
    together = StepBuffer(120, CPU)
    alone = [StepBuffer(120, CPU) for _ in range(3)]
    streams, rng = Streams(5, 3), np.random.default_rng(0)
    for round_ in range(30):
        batch = streams.batch(7)
        rewards = rng.normal(size=(*batch.rewards.shape, 3)).astype(np.float32)
        if round_ == 15:
            stored, together = together, StepBuffer(120, CPU)
            together.load(*stored.state())
        together.insert(batch, rewards)
        for i, one in enumerate(alone):
            one.insert(batch, rewards[:, :, i])
    places = np.flatnonzero(together.is_step)
    found = together.transitions(places, n, GAMMA).rewards
    assert found.shape == (len(places), 3)
    for i, one in enumerate(alone):
        assert torch.equal(found[:, i], one.transitions(places, n, GAMMA).rewards)


def test_it_goes_on_elsewhere() -> None:
    """The same batches into one that was saved half way and into another."""
    one, other = StepBuffer(120, CPU), StepBuffer(120, CPU)
    streams = Streams(5, 3)
    for round_ in range(30):
        batch = streams.batch(7)
        if round_ == 15:
            other.load(*one.state())
        one.insert(batch, batch.rewards)
        if round_ >= 15:
            other.insert(batch, batch.rewards)
    np.testing.assert_array_equal(one.is_step, other.is_step)
    places = np.flatnonzero(one.is_step)
    for mine, its in zip(
        one.transitions(places, 3, GAMMA), other.transitions(places, 3, GAMMA), strict=True
    ):
        if isinstance(mine, tuple):
            assert all(torch.equal(a, b) for a, b in zip(mine, its, strict=True))
        else:
            assert torch.equal(mine, its)
    with pytest.raises(CheckpointError, match="buffer_size"):
        StepBuffer(100, CPU).load(*one.state())


def test_a_stored_buffer_keeps_observations_of_its_own_kind_only() -> None:
    one, other = StepBuffer(120, CPU), StepBuffer(120, CPU)
    batch = Streams(5, 3).batch(7)
    one.insert(batch, batch.rewards)
    other.load(*one.state())
    refuses_halves(other, batch)


def test_uniform_draws_take_all_alike() -> None:
    buffer = play(StepBuffer, 100, 0, 1, masked=False)
    draws = UniformDraws(buffer, np.random.default_rng(0))
    places = np.concatenate([draws.draw(64)[0] for _ in range(2000)])
    assert buffer.is_step[places].all()
    expected = len(places) / buffer.steps
    counts = np.bincount(places, minlength=100)[buffer.is_step]
    assert abs(counts / expected - 1).max() < 0.15


def test_prioritized_draws_follow_the_errors() -> None:
    buffer, streams = StepBuffer(400, CPU), Streams(5, 1)
    draws = PrioritizedDraws(buffer, np.random.default_rng(0), alpha=0.5, beta=0.7, eps=0.01)
    for _ in range(60):
        batch = dataclasses.replace(streams.batch(7), masks=None)
        draws.moved(*buffer.insert(batch, batch.rewards))
    places = np.flatnonzero(buffer.is_step)
    errors = np.random.default_rng(1).random(len(places)) * 4
    draws.surprised(places, errors)
    share = (errors + 0.01) ** 0.5
    share /= share.sum()
    drawn, weights = draws.draw(32)
    at = np.searchsorted(places, drawn)
    expected = (len(places) * share[at]) ** -0.7
    np.testing.assert_allclose(weights, expected / expected.max(), rtol=1e-5)
    many = np.concatenate([draws.draw(100)[0] for _ in range(2000)])
    counts = np.bincount(np.searchsorted(places, many), minlength=len(places))
    assert abs(counts / (share * len(many)) - 1)[share > 0.001].max() < 0.2


def test_new_steps_are_drawn_as_if_they_surprised_most() -> None:
    buffer, streams = StepBuffer(400, CPU), Streams(5, 1)
    draws = PrioritizedDraws(buffer, np.random.default_rng(0), alpha=1.0, beta=1.0, eps=0.0)
    batch = dataclasses.replace(streams.batch(7), masks=None)
    _, first = buffer.insert(batch, batch.rewards)
    draws.moved(np.zeros(0, np.int64), first)
    draws.surprised(first, np.full(len(first), 1e-9))
    draws.surprised(first[:1], np.array([50.0]))
    draws.surprised(first[:1], np.array([1e-9]))
    batch = dataclasses.replace(streams.batch(7), masks=None)
    gone, new = buffer.insert(batch, batch.rewards)
    draws.moved(gone, new)
    assert set(draws.draw(200)[0].tolist()) <= set(new.tolist())
