"""Preprocessing against slow loops that do one frame at a time."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest

from policy_server.config import PreprocessingConfig
from policy_server.errors import CheckpointError, UnsupportedSpaceError
from policy_server.inference.preprocessing import Preprocessor
from policy_server.networks.flatten import VectorPart
from sim_clients.protocol.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Space,
    Tuple,
)

LANES = 5


def make(space: Space, **config: object) -> Preprocessor:
    made = Preprocessor(space, PreprocessingConfig(**config))  # type: ignore[arg-type]
    made.add_lanes(LANES)
    return made


def see(made: Preprocessor, rows: np.ndarray, lanes=None, first=None, learn=True) -> np.ndarray:
    """Of a space with one leaf."""
    n = len(rows)
    lanes = np.arange(n) if lanes is None else np.asarray(lanes)
    first = np.zeros(n, bool) if first is None else np.asarray(first, bool)
    (seen,) = made([rows], lanes, first, learn)
    ((shape, dtype),) = made.columns
    assert seen.shape == (n, *shape)
    assert seen.dtype == dtype
    assert (made.space.shape, made.space.dtype) == (shape, dtype)
    return seen


def peek(made: Preprocessor, rows: np.ndarray, lanes) -> np.ndarray:
    (seen,) = made.peek([rows], np.asarray(lanes))
    return seen


def image(shape: tuple[int, ...], dtype: str = "uint8", n: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, (n, *shape)).astype(np.uint8)
    return rng.uniform(-1, 1, (n, *shape)).astype(dtype)


# -- images -------------------------------------------------------------------------------------


def shrunk(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Every target pixel is the mean of the source pixels that it covers, in part or whole."""
    h, w, channels = frame.shape
    result = np.zeros((height, width, channels))
    for i in range(height):
        rows = range(i * h // height, math.ceil((i + 1) * h / height))
        for j in range(width):
            columns = range(j * w // width, math.ceil((j + 1) * w / width))
            pixels = [frame[r, c].astype(float) for r in rows for c in columns]
            result[i, j] = sum(pixels) / len(pixels)
    return result


@pytest.mark.parametrize("size", [(4, 6), (2, 3), (5, 7), (8, 12), (1, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_resizing_averages_areas(size, dtype):
    high = 255 if dtype == "uint8" else 1
    rows = image((8, 12, 3), dtype)
    made = make(Box(0 if high == 255 else -1, high, (8, 12, 3), dtype), resize=size)
    seen = see(made, rows)
    expected = np.stack([shrunk(frame, *size) for frame in rows])
    # Bytes are rounded, half to even.
    close = {"rtol": 1e-6, "atol": 1e-6} if dtype == "float32" else {"rtol": 0, "atol": 0.5001}
    np.testing.assert_allclose(seen.astype(float), expected, **close)


def test_whole_factors_count_every_pixel_once():
    rows = image((6, 8, 3), "float32")
    seen = see(make(Box(-1, 1, (6, 8, 3)), resize=(3, 4)), rows)
    np.testing.assert_allclose(seen.mean((1, 2)), rows.mean((1, 2)), rtol=1e-5, atol=1e-6)
    blocks = rows.reshape(3, 3, 2, 4, 2, 3).mean((2, 4))
    np.testing.assert_allclose(seen, blocks, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_gray_is_the_luma_of_colours(dtype):
    rows = image((4, 5, 3), dtype)
    bounds = (0, 255) if dtype == "uint8" else (-1, 1)
    seen = see(make(Box(*bounds, (4, 5, 3), dtype), grayscale=True), rows)
    luma = np.zeros((3, 4, 5, 1))
    for index in np.ndindex(3, 4, 5):
        red, green, blue = rows[index].astype(float)
        luma[(*index, 0)] = 0.299 * red + 0.587 * green + 0.114 * blue
    close = {"atol": 0.5001} if dtype == "uint8" else {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(seen.astype(float), luma, **close)


def test_white_stays_white_and_black_black():
    made = make(Box(0, 255, (6, 6, 3), "uint8"), resize=(4, 4), grayscale=True)
    for value in (0, 255):
        seen = see(made, np.full((1, 6, 6, 3), value, np.uint8))
        assert seen.shape == (1, 4, 4, 1)
        assert (seen == value).all()


def test_flat_bytes_are_an_image_of_one_channel():
    rows = image((6, 8))
    made = make(Box(0, 255, (6, 8), "uint8"), resize=(3, 4), grayscale=True, frame_stack=2)
    seen = see(made, rows, first=[True] * 3)
    expected = np.stack([shrunk(frame[..., None], 3, 4) for frame in rows])
    np.testing.assert_allclose(seen[..., :1].astype(float), expected, atol=0.5001)
    np.testing.assert_array_equal(seen[..., 1:], seen[..., :1])


def test_bits_of_a_picture_are_those_of_most_of_it():
    rows = np.zeros((1, 4, 4, 3), np.bool_)
    rows[0, 0, 0, 0] = rows[0, 2:, 2:] = True
    rows[0, 2, 2] = False
    made = make(Box(False, True, (4, 4, 3), "bool"), resize=(2, 2), grayscale=True)
    np.testing.assert_array_equal(see(made, rows)[0, :, :, 0], [[False, False], [False, True]])


def test_gray_of_other_than_three_channels_is_refused():
    space = Dict({"eye": Box(0, 255, (8, 8, 4), "uint8")})
    with pytest.raises(
        UnsupportedSpaceError, match=r"expected 3 colour channels in observation.*, got 4"
    ):
        make(space, grayscale=True)


def test_only_images_are_resized():
    space = Tuple([Box(-1, 1, (6, 4)), Discrete(3, start=2), MultiBinary(2)])
    made = make(space, resize=(2, 2), grayscale=True)
    columns = [image((6, 4), "float32", 2), np.array([2, 4]), np.array([[0, 1], [1, 1]], np.int8)]
    seen = made(columns, np.arange(2), np.ones(2, bool), True)
    for mine, sent in zip(seen, columns, strict=True):
        np.testing.assert_array_equal(mine, sent)
    assert made.space == space


# -- stacks -------------------------------------------------------------------------------------


class Stacks:
    """One deque per lane."""

    def __init__(self, depth: int):
        self.frames = [deque(maxlen=depth) for _ in range(LANES)]
        self.depth = depth

    def push(self, lane: int, frame: np.ndarray, first: bool) -> np.ndarray:
        self.frames[lane].extend([frame] * (self.depth if first else 1))
        return self.read(self.frames[lane])

    def look(self, lane: int, frame: np.ndarray) -> np.ndarray:
        return self.read([*list(self.frames[lane])[1:], frame])

    @staticmethod
    def read(frames) -> np.ndarray:
        """Oldest first on the channel axis."""
        return np.concatenate([np.atleast_1d(frame) for frame in frames], axis=-1)


def values(space: Space, n: int, seed: int) -> np.ndarray:
    """Of a space with one leaf. `[n, *shape]`"""
    if isinstance(space, Box):
        return image(space.shape, space.dtype.name, n, seed)
    rng = np.random.default_rng(seed)
    options = (
        2 if isinstance(space, MultiBinary) else getattr(space, "nvec", getattr(space, "n", 0))
    )
    drawn = rng.integers(0, options, (n, *space.shape)) + getattr(space, "start", 0)
    return drawn.astype(space.dtype)


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize(
    "space",
    [
        Box(-1, 1, ()),
        Box(-1, 1, (3,)),
        Box(-1, 1, (2, 3)),
        Box(0, 255, (4, 4, 3), "uint8"),
        Discrete(5, start=-2),
        MultiDiscrete([7, 300], "int16"),
        MultiDiscrete([[2, 3, 4], [5, 6, 7]], start=[[0, 1, 2], [3, 4, 5]]),
        MultiBinary(4),
        MultiBinary(()),
        Box(False, True, (3,), "bool"),
    ],
    ids=str,
)
def test_stacks_belong_to_lanes_and_begin_anew_with_episodes(space, depth):
    rng = np.random.default_rng(1)
    made, stacks = make(space, frame_stack=depth), Stacks(depth)
    begun: set[int] = set()
    for tick in range(60):
        lanes = rng.permutation(LANES)[: rng.integers(1, LANES + 1)]
        rows = values(space, len(lanes), seed=tick)
        first = np.array([lane not in begun or rng.random() < 0.2 for lane in lanes.tolist()])
        # The true final observation, before the next episode's first one.
        ends = first & np.array([lane in begun for lane in lanes.tolist()])
        if ends.any():
            finals = values(space, int(ends.sum()), seed=1000 + tick)
            for _ in range(2):
                looked = peek(made, finals, lanes[ends])
                for got, frame, lane in zip(looked, finals, lanes[ends], strict=True):
                    np.testing.assert_array_equal(got, stacks.look(lane, frame))
        seen = see(made, rows, lanes, first)
        for got, frame, lane, begins in zip(seen, rows, lanes, first, strict=True):
            np.testing.assert_array_equal(got, stacks.push(lane, frame, begins))
        begun.update(lanes.tolist())


def test_a_network_sees_each_choice_of_a_stack_as_one_hot_of_its_own():
    space = MultiDiscrete([3, 2], start=[1, 0])
    made = make(space, frame_stack=2)
    see(made, np.array([[3, 1]]), first=[True])
    seen = see(made, np.array([[1, 0]]))
    assert made.space == MultiDiscrete([3, 2, 3, 2], start=[1, 0, 1, 0])
    part = VectorPart(made.space)
    np.testing.assert_array_equal(part.numpy(seen), [[0, 0, 1, 0, 1, 1, 0, 0, 1, 0]])


def test_choices_and_numbers_beside_each_other_are_both_stacked():
    space = Dict({"at": Discrete(4), "speed": Box(-1, 1, (2,)), "doors": MultiBinary(2)})
    made = make(space, frame_stack=2)
    columns = [np.array([3]), np.array([[0.5, -0.5]], np.float32), np.array([[0, 1]], np.int8)]
    at, speed, doors = made(columns, np.arange(1), np.ones(1, bool), True)
    np.testing.assert_array_equal(at, [[3, 3]])
    np.testing.assert_array_equal(speed, [[0.5, -0.5, 0.5, -0.5]])
    np.testing.assert_array_equal(doors, [[0, 1, 0, 1]])
    stacked = made.space
    assert isinstance(stacked, Dict)
    assert stacked.spaces["at"] == MultiDiscrete([4, 4])
    assert stacked.spaces["doors"] == MultiBinary(4)


@pytest.mark.parametrize(
    "space",
    [
        Box(0, 1, (3,), "uint8"),
        Box(0, 255, (3,), "uint8"),
        Box(np.array([-3, 0], "int16"), np.array([3, 9], "int16"), (2,), "int16"),
        Box(0, 7, (), "uint8"),
        Box(False, True, (2, 2), "bool"),
    ],
    ids=str,
)
def test_a_stack_is_within_the_bounds_of_its_frames_and_scaled_as_they_are(space):
    made = make(space, frame_stack=2)
    assert isinstance(made.space, Box)
    for stacked, bound in ((made.space.low, space.low), (made.space.high, space.high)):
        np.testing.assert_array_equal(
            np.reshape(stacked, (*made.space.shape[:-1], 2, -1)),
            np.stack([np.reshape(bound, bound.shape or (1,))] * 2, axis=-2),
        )
    assert VectorPart(made.space).scale == VectorPart(space).scale


@pytest.mark.parametrize(
    "space", [MultiBinary((0,)), MultiDiscrete([]), Box(0, 1, (2, 0))], ids=str
)
def test_of_nothing_there_is_no_stack(space):
    made = make(space, frame_stack=3)
    assert see(made, np.zeros((2, *space.shape), space.dtype), first=[True, True]).size == 0
    assert made.space == space


def test_more_lanes_keep_the_stacks_there_are():
    made = make(Box(-1, 1, (2,)), frame_stack=3)
    rows = image((2,), "float32", LANES)
    see(made, rows, first=[True] * LANES)
    made.add_lanes(2 * LANES)
    made.add_lanes(LANES)  # fewer: nothing happens
    seen = see(made, rows + 1, lanes=range(LANES))
    np.testing.assert_array_equal(seen, np.concatenate([rows, rows, rows + 1], axis=1))


# -- normalisation ------------------------------------------------------------------------------


def normal(rows: np.ndarray, everything: np.ndarray, clip: float) -> np.ndarray:
    """By NumPy, over all data so far."""
    data = everything.astype(np.float64)
    return np.clip((rows - data.mean(0)) / (data.std(0, ddof=1) + 1e-8), -clip, clip)


@pytest.mark.parametrize(("shape", "dtype"), [((3,), "float32"), ((2, 2, 3), "uint8")])
def test_normalisation_is_over_everything_seen_so_far(shape, dtype):
    rng = np.random.default_rng(2)
    bounds = (0, 255) if dtype == "uint8" else (-1e3, 1e3)
    made = make(Box(*bounds, shape, dtype), normalize_observations=True, observation_clip=2.0)
    sent: list[np.ndarray] = []
    for tick in range(40):
        n = int(rng.integers(1, LANES + 1))
        rows = image(shape, dtype, n, seed=tick)
        if dtype == "float32":
            rows = rows * np.float32(3) + np.array([100, -5, 0], np.float32)
        learn = tick % 4 != 3
        if learn:
            sent.append(rows)
        everything = np.concatenate(sent)
        seen = see(made, rows, learn=learn)
        if len(everything) >= 2:
            np.testing.assert_allclose(seen, normal(rows, everything, 2.0), rtol=1e-4, atol=1e-4)
        looked = peek(made, rows, range(n))  # counts nothing
        np.testing.assert_array_equal(looked, seen)
    assert abs(seen).max() <= 2.0
    state = made.state()
    assert int(state["normalize.0.count"]) == len(everything)
    np.testing.assert_allclose(state["normalize.0.mean"], everything.mean(0), rtol=1e-5, atol=1e-6)


def test_far_from_zero_the_deviation_stays_exact():
    rng = np.random.default_rng(3)
    made = make(Box(-np.inf, np.inf, (1,), "float64"), normalize_observations=True)
    rows = 1e9 + rng.normal(0, 1e-2, (1000, LANES, 1))
    for part in rows:
        see(made, part)
    state = made.state()
    deviation = np.sqrt(state["normalize.0.squares"] / (state["normalize.0.count"] - 1))
    np.testing.assert_allclose(deviation, rows.std(ddof=1), rtol=1e-3)


def test_what_never_changes_is_zero():
    made = make(Box(-1, 1, (2,)), normalize_observations=True)
    for _ in range(50):
        seen = see(made, np.full((3, 2), 0.1, np.float32))
    np.testing.assert_allclose(seen, 0.0, atol=1e-3)


def test_the_first_row_passes_through_clipped():
    made = make(Box(-99, 99, (2,)), normalize_observations=True, observation_clip=5.0)
    np.testing.assert_array_equal(see(made, np.array([[3, -50]], np.float32)), [[3, -5]])


def test_moments_go_on_elsewhere():
    one = make(Box(-1, 1, (3,)), normalize_observations=True)
    other = make(Box(-1, 1, (3,)), normalize_observations=True)
    for tick in range(5):
        see(one, image((3,), "float32", seed=tick))
    other.load({name: array.copy() for name, array in one.state().items()})
    for tick in range(5, 8):
        rows = image((3,), "float32", seed=tick)
        np.testing.assert_array_equal(see(other, rows), see(one, rows))


@pytest.mark.parametrize("then", [False, True])
def test_normalisation_is_not_switched_between_two_runs(then: bool):
    one = make(Box(-1, 1, (3,)), normalize_observations=then)
    other = make(Box(-1, 1, (3,)), normalize_observations=not then)
    see(one, image((3,), "float32"))
    with pytest.raises(CheckpointError, match=f"= {str(then).lower()}, and now it is"):
        other.load(one.state())


# -- all of it ----------------------------------------------------------------------------------


def test_float16_is_how_floats_are_stored_and_nothing_else():
    space = Dict(
        {
            "bytes": Box(0, 255, (2,), "uint8"),
            "choice": Discrete(3),
            "wide": Box(-1, 1, (3,), "float64"),
        }
    )
    made = make(space, storage_dtype="float16")
    wide = np.random.default_rng(0).uniform(-1, 1, (2, 3))
    columns = [np.array([[1, 255], [0, 7]], np.uint8), np.array([0, 2]), wide]
    seen = made(columns, np.arange(2), np.ones(2, bool), True)
    assert [leaf.dtype for leaf in seen] == [np.uint8, np.int64, np.float16]
    assert [dtype for _, dtype in made.columns] == [np.uint8, np.int64, np.float16]
    np.testing.assert_array_equal(seen[0], columns[0])
    np.testing.assert_array_equal(seen[2], wide.astype(np.float16))
    assert made.space.spaces["wide"].dtype == np.float16
    for leaf, (_, dtype) in zip(make(space)(columns, np.arange(2), np.ones(2, bool), True),
                                make(space).columns, strict=True):  # fmt: skip
        assert leaf.dtype == dtype
        assert dtype != np.float64


def test_everything_at_once_keeps_its_order():
    """Resize, gray, normalise, stack, float16: frames are normalised as they were seen, and a
    stack keeps them so."""
    made = make(
        Box(0, 255, (8, 8, 3), "uint8"),
        resize=(4, 4),
        grayscale=True,
        frame_stack=3,
        normalize_observations=True,
        storage_dtype="float16",
    )
    plain = make(Box(0, 255, (8, 8, 3), "uint8"), resize=(4, 4), grayscale=True)
    stacks, grays = Stacks(3), []
    for tick in range(12):
        rows = image((8, 8, 3), n=LANES, seed=tick)
        grays.append(see(plain, rows))
        first = np.full(LANES, tick in (0, 7))
        seen = see(made, rows, first=first)
        frames = normal(grays[-1], np.concatenate(grays), 10.0).astype(np.float32)
        for lane in range(LANES):
            expected = stacks.push(lane, frames[lane], bool(first[lane]))
            np.testing.assert_allclose(seen[lane].astype(float), expected, atol=2e-3, rtol=2e-3)
    assert seen.dtype == np.float16
    assert made.space.shape == (4, 4, 3)


def test_frames_sent_stay_as_they_are():
    made = make(Box(-1, 1, (4,)), normalize_observations=True, frame_stack=2)
    rows = image((4,), "float32")
    copy = rows.copy()
    rows.setflags(write=False)
    see(made, rows, first=[True] * 3)
    peek(made, rows, range(3))
    np.testing.assert_array_equal(rows, copy)


# -- groups ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [True, False])
def test_what_tells_agents_their_rewards_stays_as_it_is(group: bool) -> None:
    numbers = Box(-math.inf, math.inf, (2,))
    agents: Space = Dict({"a": numbers, "b": numbers}) if group else numbers
    space = Dict({"agents": agents, "rewards": numbers})
    made = make(space, normalize_observations=True, frame_stack=2, storage_dtype="float16")
    rewards = np.array([[1234.5, -3.0], [0.1, 70000.0]], np.float32)
    for _ in range(3):
        rows = [np.ones((2, 2), np.float32)] * (2 if group else 1)
        *seen, told = made([*rows, rewards], np.arange(2), np.zeros(2, bool), True)
        *_, final = made.peek([*rows, rewards], np.arange(2))
    assert all(column.shape == (2, 4) for column in seen)
    assert (made.space.spaces["rewards"] == numbers) == group
    assert (np.array_equal(told, rewards) and np.array_equal(final, rewards)) == group
