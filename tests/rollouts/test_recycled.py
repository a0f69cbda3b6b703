"""Memory that is used again, and never while somebody holds it."""

import numpy as np

from policy_server.rollouts.recycled import MOST_BYTES, Recycled

F32 = np.dtype(np.float32)


def place(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_once_nobody_holds_it() -> None:
    room = Recycled()
    first = room.empty((100, 3), F32)
    assert (first.shape, first.dtype) == ((100, 3), F32)
    where = place(first)
    del first
    smaller = room.empty((7,), np.dtype(np.uint8))
    assert place(smaller) == where
    assert smaller.shape == (7,)


def test_memory_that_somebody_holds_stays_his() -> None:
    room = Recycled()
    kept = room.empty((4, 2), F32)[1]  # a view of it is enough
    kept[:] = 7.0
    for _ in range(3):
        other = room.empty((4, 2), F32)
        other[:] = 0.0
    assert (kept == 7.0).all()


def test_it_grows_and_does_not_keep_what_is_very_large() -> None:
    room = Recycled()
    room.empty((10,), F32)
    assert room.empty((1000,), F32).shape == (1000,)
    large = room.empty((MOST_BYTES + 1,), np.dtype(np.uint8))
    assert large.base is None, "not ours to give again"
    assert room.empty((0, 3), F32).shape == (0, 3)
