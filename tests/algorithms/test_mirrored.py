"""ES and ARS: which episodes are a pair, what a pair says, and where it leads."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from policy_server import perturbation
from policy_server.algorithms import ars, es, mirrored
from policy_server.algorithms.ars_options import ARSTraining
from policy_server.algorithms.mirrored import MirroredReturns, Pairs, weighted_sum
from policy_server.algorithms.ops import ranks
from policy_server.errors import ConfigError
from tests.broken import broken
from tests.replay.streams import Streams

SEED, SIZE = 5, 40
RNG = np.random.default_rng(0)


# -- the noise -------------------------------------------------------------------------------------


def check_noise(page: dict[str, Any]) -> None:
    weights = RNG.normal(size=SIZE + 3).astype(np.float32)
    learned = np.ones(SIZE + 3, bool)
    learned[[0, 7, 41]] = False  # of a network whose other numbers stay as they are
    for pair in (0, 1, 7):
        one, other = (
            page["perturbed"](weights, learned, 0.1, SEED, 2 * pair + half) for half in (0, 1)
        )
        eps = np.zeros(SIZE + 3)
        eps[learned] = page["direction"](SEED, pair, SIZE)
        np.testing.assert_allclose(one, weights + 0.1 * eps, atol=1e-6)
        np.testing.assert_allclose(other, weights - 0.1 * eps, atol=1e-6)
        assert page["pair_of"](2 * pair) == (pair, 0)
        assert page["pair_of"](2 * pair + 1) == (pair, 1)


def test_a_pair_is_one_direction_there_and_back() -> None:
    check_noise(vars(perturbation))


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("-deviation if backwards else deviation", "deviation if backwards else -deviation"),
        ("-deviation if backwards else deviation", "deviation"),
        ("divmod(episode, 2)", "divmod(episode + 1, 2)"),
        ("divmod(episode, 2)", "(episode, episode % 2)"),
    ],
)
def test_broken_noise_shows(line: str, instead: str) -> None:
    with pytest.raises(AssertionError):
        check_noise(broken(perturbation, line, instead))


def test_directions_are_standard_normal_and_independent() -> None:
    many = np.stack([perturbation.direction(SEED, k, 2000) for k in range(50)])
    assert many.dtype == np.float32
    assert abs(many.mean()) < 0.02
    assert many.std() == pytest.approx(1.0, abs=0.02)
    assert abs(np.corrcoef(many) - np.eye(50)).max() < 0.12
    again, of_another = perturbation.direction(SEED, 3, 2000), perturbation.direction(6, 3, 2000)
    assert many[3].tobytes() == again.tobytes()
    assert abs(np.corrcoef(again, of_another)[0, 1]) < 0.1


# -- ranks -----------------------------------------------------------------------------------------


def check_ranks(page: dict[str, Any]) -> None:
    rank = page["centered_ranks"]
    assert rank(np.array([30.0, -5.0, 7.0])).tolist() == [0.5, -0.5, 0.0]
    assert rank(np.array([[1.0, 9.0], [9.0, 9.0], [2.0, 1e9]])).tolist() == [
        [-0.5, pytest.approx(0.1)], [pytest.approx(0.1), pytest.approx(0.1)], [-0.3, 0.5],
    ]  # fmt: skip
    assert rank(np.full(4, 7.0)).tolist() == [0.0] * 4
    assert rank(np.array([3.0])).tolist() == [0.0]


def test_ranks_by_hand() -> None:
    check_ranks(vars(ranks))
    values = RNG.normal(size=(9, 2))
    found = ranks.centered_ranks(values)
    for value, rank in zip(values.flat, found.flat, strict=True):
        assert rank == pytest.approx((values < value).sum() / 17 - 0.5)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("(counts + 1) / 2", "counts"),
        ("(counts + 1) / 2", "counts / 2"),
        ("values.size - 1)", "values.size)"),
        ("- (0.5 if", "+ (0.5 if"),
        ("- (0.5 if values.size > 1 else 0.0)", "- 0.5"),
    ],
)
def test_broken_ranks_show(line: str, instead: str) -> None:
    with pytest.raises(AssertionError):
        check_ranks(broken(ranks, line, instead))


# -- steps -----------------------------------------------------------------------------------------

PAIRS = Pairs(
    np.array([3, 0, 8, 5, 11]),
    np.array([[10.0, -4.0], [2.0, 2.0], [-6.0, 30.0], [1.0, 0.5], [-9.0, -8.0]]),
)


def each_episode() -> list[tuple[float, np.ndarray]]:
    """(return, signed direction) of all ten, one after the other."""
    return [
        (PAIRS.returns[i, half], (1 - 2 * half) * perturbation.direction(SEED, number, SIZE))
        for i, number in enumerate(PAIRS.numbers.tolist())
        for half in (0, 1)
    ]


def check_es(page: dict[str, Any]) -> None:
    """Against the plain estimate: each of the 2n episodes by itself, ranks by counting."""
    played = each_episode()
    returns = [return_ for return_, _ in played]
    wanted = np.zeros(SIZE)
    for return_, noise in played:
        below = sum(other < return_ for other in returns)
        level = sum(other == return_ for other in returns)
        rank = (below + (level - 1) / 2) / (len(returns) - 1) - 0.5
        wanted += rank * noise / len(returns)
    np.testing.assert_allclose(page["es_gradient"](PAIRS, SEED, SIZE), wanted, atol=1e-6)


def check_ars(page: dict[str, Any]) -> None:
    """Against algorithm 2, line by line: the best three are 8 (30), 3 (10) and 0 (2)."""
    top = [(-6.0, 30.0, 8), (10.0, -4.0, 3), (2.0, 2.0, 0)]
    returns = [f for forwards, backwards, _ in top for f in (forwards, backwards)]
    mean = sum(returns) / 6
    deviation = (sum((f - mean) ** 2 for f in returns) / 6) ** 0.5
    wanted = np.zeros(SIZE)
    for forwards, backwards, number in top:
        noise = perturbation.direction(SEED, number, SIZE)
        wanted += (forwards - backwards) * noise / (3 * deviation)
    np.testing.assert_allclose(page["ars_direction"](PAIRS, 3, SEED, SIZE), wanted, atol=1e-6)


def test_steps_are_those_of_the_papers() -> None:
    check_es(vars(es))
    check_ars(vars(ars))


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("(u[:, 0] - u[:, 1])", "(u[:, 1] - u[:, 0])"),
        ("(u[:, 0] - u[:, 1])", "(u[:, 0] + u[:, 1])"),
        ("/ u.size", "/ len(u)"),
        ("centered_ranks(pairs.returns)", "pairs.returns"),
    ],
)
def test_a_broken_gradient_shows(line: str, instead: str) -> None:
    with pytest.raises(AssertionError):
        check_es(broken(es, line, instead))


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("pairs.returns.max(axis=1)", "pairs.returns.min(axis=1)"),
        ("np.argsort(-better", "np.argsort(better"),
        ("pairs.numbers[best]", "pairs.numbers[:top]"),
        ("returns.std()\n", "pairs.returns.std()\n"),
        ("(returns[:, 0] - returns[:, 1]) /", "(returns[:, 1] - returns[:, 0]) /"),
        ("(top * deviation)", "deviation"),
    ],
)
def test_a_broken_search_shows(line: str, instead: str) -> None:
    with pytest.raises(AssertionError):
        check_ars(broken(ars, line, instead))


def test_the_steps_lead_uphill() -> None:
    """F(theta) = -|theta - goal|^2, whose gradient is 2 (goal - theta)."""
    theta, goal = RNG.normal(size=(2, SIZE))
    numbers = np.arange(3000)
    noise = np.stack([perturbation.direction(SEED, k, SIZE) for k in numbers])
    returns = np.stack([-((theta + s * 0.02 * noise - goal) ** 2).sum(1) for s in (1, -1)], 1)
    pairs = Pairs(numbers, returns)
    true = goal - theta
    for found in (es.es_gradient(pairs, SEED, SIZE), ars.ars_direction(pairs, 1500, SEED, SIZE)):
        cosine = found @ true / np.linalg.norm(found) / np.linalg.norm(true)
        assert cosine > 0.95


def test_pairs_that_do_not_differ_move_nothing() -> None:
    level = Pairs(PAIRS.numbers, np.full((5, 2), 500.0))
    assert not es.es_gradient(level, SEED, SIZE).any()
    assert not ars.ars_direction(level, 3, SEED, SIZE).any()
    one = weighted_sum(np.array([2.0]), [4], SEED, SIZE)
    np.testing.assert_allclose(one, 2.0 * perturbation.direction(SEED, 4, SIZE), atol=1e-6)


def test_more_of_the_best_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"top_directions=9 with training\.directions=8"):
        ARSTraining(directions=8, top_directions=9)


# -- pairs -----------------------------------------------------------------------------------------


def play(kind: type[MirroredReturns], seed: int) -> None:
    """Lanes whose steps get lost now and then: exactly the pairs of which nothing is missing come
    out, each once, with its returns."""
    streams = Streams(5, seed)
    returns = kind()
    found: dict[int, tuple[float, float]] = {}
    missed: set[int] = set()
    for round_ in range(90):
        batch = streams.batch(7)
        if round_ % 5 == 2 and round_ < 80:  # in the end every lane is heard of again
            streams.lose(int(streams.rng.integers(5)), 2)
        over = np.unique(batch.episodes[batch.valid & (batch.terminated | batch.truncated)])
        if round_ % 3 == 1 and len(over):  # it began before somebody looked, say
            missed.add(int(over[0]))
            batch = dataclasses.replace(batch, missed=over[:1])
        returns.add(batch, batch.rewards)
        if round_ == 40:
            stored = json.loads(json.dumps(returns.state()))
            returns = kind()
            returns.load(stored)
        while (pairs := returns.take(1)) is not None:
            number = int(pairs.numbers[0])
            assert number not in found
            found[number] = tuple(pairs.returns[0].tolist())
    wanted: dict[int, float] = {}
    unheard: set[int] = set()  # pairs with an episode of which no step ever came
    for lane in streams.lanes:
        lost = {lane.steps[i].episode for i in lane.lost}
        heard = {step.episode for i, step in enumerate(lane.steps) if i not in lane.lost}
        unheard |= {episode // 2 for episode in lost - heard}
        totals: dict[int, float] = {}
        for step in lane.steps[: lane.given]:
            totals[step.episode] = totals.get(step.episode, 0.0) + step.reward
            if (step.terminated or step.truncated) and step.episode not in lost | missed:
                wanted[step.episode] = totals[step.episode]
    whole = {k for k in range(max(wanted) // 2 + 1) if {2 * k, 2 * k + 1} <= wanted.keys()}
    assert len(whole) > 20
    assert found.keys() == whole
    for number, pair in found.items():
        assert pair == pytest.approx((wanted[2 * number], wanted[2 * number + 1]))
    assert returns.given_up > 10
    waiting = {number for number, *_ in returns.state()["waiting"]}
    assert not waiting & set(returns.state()["lost"])
    under_way = {lane.episode // 2 for lane in streams.lanes}
    assert waiting <= under_way | unheard, "for whom else?"


def play_all(kind: type[MirroredReturns]) -> None:
    for seed in range(3):
        play(kind, seed)


def test_only_whole_pairs_count() -> None:
    play_all(MirroredReturns)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("one[:2] == (episode, t)", "one[0] == episode"),
        ("if t == 0:", "if True:"),
        ("if number in self._lost:\n            return\n", "if False:\n            return\n"),
        ("(total, one.total) if half", "(one.total, total) if half"),
        ("one.next_t + end - start", "one.next_t + end - start + 1"),
        ("one.total + part", "part"),
        ("0 if start else int(batch.first_t[b])", "int(batch.first_t[b])"),
        ("for episode in batch.missed.tolist():", "for episode in []:"),
        ("        self._waiting.pop(number, None)\n", ""),
        ("self._miss(one.episode)", "pass"),
        ('"waiting": [[number, *half]', '"waiting": [[number + 1, *half]'),
    ],
)
def test_a_broken_line_shows(line: str, instead: str) -> None:
    kind = broken(mirrored, line, instead)["MirroredReturns"]
    with pytest.raises(AssertionError):
        play_all(kind)


def test_what_never_comes_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrored, "MOST_WAITING", 6)
    returns, streams = MirroredReturns(), Streams(4, 0)
    for _ in range(200):
        batch = streams.batch(5)
        # Every second episode is never heard of.
        batch = dataclasses.replace(batch, episodes=2 * batch.episodes)
        returns.add(batch, batch.rewards)
    assert returns.waiting == 6
    assert len(returns.state()["lost"]) == 6
    assert returns.take(1) is None
