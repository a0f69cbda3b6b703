"""Single observations, actions and masks <-> rows of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim_clients.errors import InvalidStep
from sim_clients.protocol import spaces


class RowStore:
    """One array per leaf, written row by row from single observations.

    Attributes:
        value: all rows, in the space's own nesting; the arrays are written in place.
    """

    def __init__(self, space: spaces.Space, n: int):
        self._space = space
        self._columns = [np.zeros((n, *leaf.shape), leaf.dtype) for _, leaf in spaces.leaves(space)]
        self.value = spaces.unflatten(space, self._columns)
        self._bare = self._columns[0] if isinstance(space, spaces.Leaf) else None

    def write(self, row: int, value: Any) -> None:
        if self._bare is not None:
            self._bare[row] = value
        else:
            _write(self._space, self.value, row, value)

    def copy_row(self, other: RowStore, row: int) -> None:
        for mine, theirs in zip(self._columns, other._columns, strict=True):
            mine[row] = theirs[row]


def _write(space: spaces.Space, store: Any, row: int, value: Any) -> None:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            _write(part, store[key], row, value[key])
    elif isinstance(space, spaces.Tuple):
        for part, column, item in zip(space.spaces, store, value, strict=True):
            _write(part, column, row, item)
    else:
        store[row] = value


def action_rows(space: spaces.Space, actions: Any, n: int) -> list[Any]:
    """Each lane's action out of a batch, as its environment wants it."""
    if isinstance(space, spaces.Discrete):
        return list(actions.tolist())  # plain integers: some environments index tuples with them
    return [action_row(space, actions, i) for i in range(n)]


def action_row(space: spaces.Space, actions: Any, row: int) -> Any:
    """One lane's action out of a batch, as its environment wants it."""
    if isinstance(space, spaces.Dict):
        return {key: action_row(part, actions[key], row) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(
            action_row(part, a, row) for part, a in zip(space.spaces, actions, strict=True)
        )
    return actions[row]


def flat_mask(info: Any, width: int) -> np.ndarray:
    """`info["action_mask"]` as uint8[width]; nested masks are joined in the order of leaves.

    Raises:
        InvalidStep: there is none, or it has another length.
    """
    if not isinstance(info, dict) or "action_mask" not in info:
        raise InvalidStep(
            "expected info['action_mask'] from every reset and step, got none: leave out "
            "--action-mask, or add it to the environment."
        )
    mask = np.concatenate([np.zeros(0, np.uint8), *_mask_parts(info["action_mask"])])
    if len(mask) != width:
        raise InvalidStep(f"action_mask: expected {width} options in all, got {len(mask)}.")
    return mask


def _mask_parts(mask: Any) -> list[np.ndarray]:
    if isinstance(mask, dict):
        return [part for value in mask.values() for part in _mask_parts(value)]
    if isinstance(mask, tuple):
        return [part for value in mask for part in _mask_parts(value)]
    return [np.asarray(mask).astype(np.uint8).reshape(-1)]
