"""Random numbers of lanes: even, repeatable, nobody else's business."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from chi_square import counts_fit, critical

from policy_server.inference.noise import draw, lane_keys, normal

LIMIT = 2**64


def mix(x: int) -> int:
    """SplitMix64's finaliser in plain integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % LIMIT
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % LIMIT
    return x ^ (x >> 31)


@pytest.mark.parametrize("freedom", [2, 4, 10, 50, 100])
def test_the_chi_square_limit_is_exceeded_about_once_in_ten_thousand_times(freedom):
    # Closed form of the upper tail for even degrees of freedom: a sum of Poisson probabilities.
    half = critical(freedom) / 2
    tail = sum(half**i / math.factorial(i) for i in range(freedom // 2)) * math.exp(-half)
    assert tail == pytest.approx(1e-4, rel=0.5)


def uniforms(keys, counters, width):
    draws = counters.copy()
    numbers = draw(np.arange(len(keys)), keys, draws, width)
    np.testing.assert_array_equal(draws, counters + np.uint64(1))
    return numbers


def normals(uniform):
    d = uniform.shape[1] // 2
    pairs = zip(uniform[:, :d].ravel().tolist(), uniform[:, d:].ravel().tolist(), strict=True)
    return np.array([normal(*pair) for pair in pairs], np.float32).reshape(-1, d)


def test_lanes_draw_by_their_slots_and_nobody_else_draws():
    keys, draws = lane_keys(3, lanes=8), np.arange(8, dtype=np.uint64)
    slots = np.array([6, 1, 4])
    expected = uniforms(keys[slots], draws[slots], 2)
    np.testing.assert_array_equal(draw(slots, keys, draws, 2), expected)
    np.testing.assert_array_equal(draws, [0, 2, 2, 3, 5, 5, 7, 7])


def test_numbers_are_a_hash_of_lane_count_and_position():
    gamma, width = 0x9E3779B97F4A7C15, 3
    keys = lane_keys(7, "policy", "place", lanes=4)
    counters = np.array([0, 1, 5, 2**40], np.uint64)
    digest = hashlib.blake2b(b"7\0policy\0place", digest_size=8).digest()
    base = int.from_bytes(digest, "little")
    expected = []
    for lane, count in enumerate(counters.tolist()):
        key = mix((base + (lane + 1) * gamma) % LIMIT)
        assert key == int(keys[lane])
        positions = [count * width + i for i in range(1, width + 1)]
        expected.append([(mix((key + p * gamma) % LIMIT) >> 32) / 2**32 for p in positions])
    np.testing.assert_array_equal(uniforms(keys, counters, width), expected)


def test_keys_belong_to_a_place_and_more_lanes_change_nothing():
    keys = lane_keys(1, "a", lanes=8)
    np.testing.assert_array_equal(lane_keys(1, "a", lanes=3), keys[:3])
    places = [(1, "a"), (2, "a"), (1, "b"), ("1a",), (1, "a", "")]
    everything = np.concatenate([lane_keys(*place, lanes=8) for place in places])
    assert len(set(everything.tolist())) == len(everything)


def test_numbers_do_not_depend_on_who_else_is_in_the_batch():
    rng = np.random.default_rng(0)
    keys = lane_keys(3, lanes=64)
    counters = rng.integers(0, 1000, 64).astype(np.uint64)
    together = uniforms(keys, counters, 5)
    order = rng.permutation(64)
    np.testing.assert_array_equal(uniforms(keys[order], counters[order], 5), together[order])
    for size in (1, 7):
        parts = [
            uniforms(keys[i : i + size], counters[i : i + size], 5) for i in range(0, 64, size)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), together)


N = 100_000


def over_lanes() -> np.ndarray:
    return uniforms(lane_keys("lanes", lanes=N), np.zeros(N, np.uint64), 4)


def over_time() -> np.ndarray:
    keys = np.broadcast_to(lane_keys("time", lanes=1), N)
    return uniforms(keys.copy(), np.arange(N, dtype=np.uint64), 4)


@pytest.mark.parametrize("source", [over_lanes, over_time])
def test_numbers_are_even(source):
    numbers = source()
    assert numbers.dtype == np.float64
    assert numbers.min() >= 0.0
    assert numbers.max() <= 1 - 2.0**-32
    even = np.full(100, 0.01)
    for column in numbers.T:
        assert counts_fit(np.histogram(column, 100, (0, 1))[0], even)
    # Neighbours, in the row and below each other, know nothing of each other.
    pairs = np.full((10, 10), 0.01)
    for first, second in (
        (numbers[:, 0], numbers[:, 1]),
        (numbers[:, 3], numbers[:, 2]),
        (numbers[:-1, 0], numbers[1:, 0]),
        (numbers[:-1, 3], numbers[1:, 0]),
    ):
        grid = np.histogram2d(first, second, 10, [(0, 1), (0, 1)])[0]
        assert counts_fit(grid, pairs)


@pytest.mark.parametrize("source", [over_lanes, over_time])
def test_normals_have_the_moments_of_normals(source):
    numbers = normals(source())
    assert numbers.dtype == np.float32
    assert numbers.shape == (N, 2)
    z = numbers.astype(np.float64)
    error = 4 / np.sqrt(N)  # four standard errors of a mean with deviation 1
    assert abs(z.mean(0)).max() < error
    assert abs((z**2).mean(0) - 1).max() < error * np.sqrt(2)
    assert abs((z**3).mean(0)).max() < error * np.sqrt(15)
    assert abs((z**4).mean(0) - 3).max() < error * np.sqrt(96)
    assert abs((z[:, 0] * z[:, 1]).mean()) < error
    inside = np.array([(abs(z) < k).mean() for k in (1, 2, 3)])
    np.testing.assert_allclose(inside, [0.6827, 0.9545, 0.9973], atol=error)


def test_normals_are_finite_at_both_ends():
    ends = np.array([0.0, 1 - 2.0**-32])
    uniform = np.stack(np.meshgrid(ends, ends), axis=-1).reshape(-1, 2)
    numbers = normals(uniform)
    assert np.isfinite(numbers).all()
    assert abs(numbers).max() < 7
