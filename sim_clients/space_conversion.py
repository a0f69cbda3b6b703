"""Spaces of other libraries -> spaces of the wire, told apart by class name, importing nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sim_clients.protocol import spaces
from sim_clients.protocol.spaces import Space


def as_space(space: Any) -> Space:
    """A protocol space, or the like-named Gymnasium one, as a protocol space.

    Raises:
        TypeError: the wire has no such space.
        ProtocolError: it has, but not with these numbers (an empty Dict, 100 levels, ...).
    """
    converted = _convert(space, "space")
    # What the server will read must be what is meant here, limits included.
    return spaces.from_wire(converted.to_wire())


def _convert(space: Any, where: str) -> Space:
    if isinstance(space, (spaces.Dict, spaces.Tuple)) or not isinstance(space, Space):
        for base in type(space).__mro__:
            build = _BUILDERS.get(base.__name__)
            if build is not None:
                return build(space, where)
        raise TypeError(
            f"{where}: expected {', '.join(_BUILDERS)} (of Gymnasium or sim_clients.protocol), got "
            f"{type(space).__name__}: wrap the environment so that its space is one of these."
        )
    return space


def _dtype(space: Any, where: str) -> str:
    name = str(np.dtype(space.dtype).name)
    if name not in spaces.DTYPES:
        raise TypeError(f"{where}: expected a dtype among {', '.join(spaces.DTYPES)}, got {name}.")
    return name


def _box(space: Any, where: str) -> Space:
    return spaces.Box(space.low, space.high, tuple(space.shape), _dtype(space, where))


def _discrete(space: Any, where: str) -> Space:
    return spaces.Discrete(int(space.n), int(getattr(space, "start", 0)), _dtype(space, where))


def _multi_discrete(space: Any, where: str) -> Space:
    return spaces.MultiDiscrete(space.nvec, _dtype(space, where), getattr(space, "start", 0))


def _multi_binary(space: Any, where: str) -> Space:
    return spaces.MultiBinary(tuple(space.shape), _dtype(space, where))


def _dict(space: Any, where: str) -> Space:
    return spaces.Dict({k: _convert(s, f"{where}.{k}") for k, s in space.spaces.items()})


def _tuple(space: Any, where: str) -> Space:
    return spaces.Tuple(tuple(_convert(s, f"{where}[{i}]") for i, s in enumerate(space.spaces)))


_BUILDERS: dict[str, Callable[[Any, str], Space]] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    "Dict": _dict,
    "Tuple": _tuple,
}
