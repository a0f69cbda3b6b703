"""Spaces on the wire: what an observation or an action looks like, and its leaves.

A space is a tree. Its leaves, depth first in declared order, are the columns of STEP and
ACTIONS: little-endian, C order, dtype and shape fixed here once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sim_clients.protocol.errors import ErrorCode, ProtocolError

DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
        "float16", "float32", "float64",
    )
}  # fmt: skip
MAX_DEPTH = 8
MAX_LEAVES = 256
MAX_ELEMENTS = 1 << 26  # per leaf and lane
MAX_CHOICES = 1 << 16  # of all discrete parts of one space together


class Space:
    """Base of all spaces. Two spaces are equal when they read the same on the wire. `str` is short,
    for people: numbers are rounded."""

    def to_wire(self) -> list[Any]:
        """Nested msgpack arrays, as in `docs/PROTOCOL.md`."""
        raise TypeError(f"{type(self).__name__} is not a space of the protocol")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.to_wire() == other.to_wire()

    def __hash__(self) -> int:
        return hash(repr(self.to_wire()))


class Leaf(Space):
    """A space that is one array. Shape: `shape`; dtype: `dtype`."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of one lane's value."""
        return math.prod(self.shape) * self.dtype.itemsize


def _bound(value: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    array = np.broadcast_to(np.asarray(value).astype(dtype), shape)
    return np.ascontiguousarray(array)


def _brief(array: np.ndarray) -> str:
    """All numbers of it: one where they are alike, else the first four."""
    numbers = array.reshape(-1)
    shown = numbers[:1] if len(np.unique(numbers)) == 1 else numbers[:4]
    text = ", ".join(f"{number:.6g}" for number in shown.tolist())
    if len(shown) == 1:
        return text
    return f"[{text}{', ...' if len(numbers) > len(shown) else ''}]"


def _unusual(dtype: np.dtype, usual: str) -> str:
    return "" if dtype.name == usual else f", {dtype.name}"


@dataclass(frozen=True, eq=False)
class Box(Leaf):
    """Numbers between `low` and `high` (scalars or arrays of `shape`)."""

    low: Any
    high: Any
    shape: tuple[int, ...] = ()
    dtype: Any = "float32"

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "shape", tuple(int(n) for n in self.shape))
        set_(self, "dtype", DTYPES[np.dtype(self.dtype).name])
        set_(self, "low", _bound(self.low, self.shape, self.dtype))
        set_(self, "high", _bound(self.high, self.shape, self.dtype))

    def to_wire(self) -> list[Any]:
        def bound(array: np.ndarray) -> Any:
            first = array.reshape(-1)[:1]
            if first.size and (array == first[0]).all():
                return first[0].item()
            return array.tobytes()

        return ["box", self.dtype.name, list(self.shape), bound(self.low), bound(self.high)]

    def __str__(self) -> str:
        return f"Box({_brief(self.low)}, {_brief(self.high)}, {self.shape}, {self.dtype.name})"


@dataclass(frozen=True, eq=False)
class Discrete(Leaf):
    """One of `n` choices: start, start + 1, ..., start + n - 1."""

    n: int
    start: int = 0
    dtype: Any = "int64"
    shape: tuple[int, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", DTYPES[np.dtype(self.dtype).name])
        object.__setattr__(self, "n", int(self.n))
        object.__setattr__(self, "start", int(self.start))

    def to_wire(self) -> list[Any]:
        return ["discrete", self.dtype.name, self.n, self.start]

    def __str__(self) -> str:
        start = f", start={self.start}" if self.start else ""
        return f"Discrete({self.n}{start}{_unusual(self.dtype, 'int64')})"


@dataclass(frozen=True, eq=False)
class MultiDiscrete(Leaf):
    """An array of choices, element i one of `nvec[i]`, from `start[i]` on."""

    nvec: Any  # int64 array of `shape`
    dtype: Any = "int64"
    start: Any = 0

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "nvec", np.array(self.nvec, dtype=np.int64))
        set_(self, "start", _bound(self.start, self.nvec.shape, np.dtype(np.int64)))
        set_(self, "dtype", DTYPES[np.dtype(self.dtype).name])

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.nvec.shape

    def to_wire(self) -> list[Any]:
        nvec, start = self.nvec.reshape(-1).tolist(), self.start.reshape(-1).tolist()
        return ["multi_discrete", self.dtype.name, list(self.shape), nvec, start]

    def __str__(self) -> str:
        start = f", start={_brief(self.start)}" if self.start.any() else ""
        dtype = _unusual(self.dtype, "int64")
        return f"MultiDiscrete({_brief(self.nvec)}, {self.shape}{start}{dtype})"


@dataclass(frozen=True, eq=False)
class MultiBinary(Leaf):
    """An array of bits, each 0 or 1."""

    shape: tuple[int, ...] = ()
    dtype: Any = "int8"

    def __post_init__(self) -> None:
        shape = (self.shape,) if isinstance(self.shape, int) else self.shape
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        object.__setattr__(self, "dtype", DTYPES[np.dtype(self.dtype).name])

    def to_wire(self) -> list[Any]:
        return ["multi_binary", self.dtype.name, list(self.shape)]

    def __str__(self) -> str:
        return f"MultiBinary({self.shape}{_unusual(self.dtype, 'int8')})"


@dataclass(frozen=True, eq=False)
class Dict(Space):
    """Named parts, in the order given."""

    spaces: Mapping[str, Space]

    def to_wire(self) -> list[Any]:
        return ["dict", [[key, space.to_wire()] for key, space in self.spaces.items()]]

    def __str__(self) -> str:
        return f"Dict({', '.join(f'{key}: {space}' for key, space in self.spaces.items())})"


@dataclass(frozen=True, eq=False)
class Tuple(Space):
    """Numbered parts."""

    spaces: Sequence[Space]

    def to_wire(self) -> list[Any]:
        return ["tuple", [space.to_wire() for space in self.spaces]]

    def __str__(self) -> str:
        return f"Tuple({', '.join(map(str, self.spaces))})"


# -- reading a space off the wire ------------------------------------------------------------


def from_wire(data: Any, where: str = "space") -> Space:
    """Reads what `to_wire` writes, from a stranger.

    Raises:
        ProtocolError: `bad_space`, naming the place in the tree.
    """
    space = _read(data, where, 0)
    all_leaves = leaves(space)
    if not 1 <= len(all_leaves) <= MAX_LEAVES:
        raise _bad(where, f"expected 1 to {MAX_LEAVES} leaves", f"{len(all_leaves)}")
    if sum(choices(leaf).sum() for _, leaf in all_leaves) > MAX_CHOICES:
        raise _bad(where, f"expected at most {MAX_CHOICES} discrete choices in all", "more")
    return space


def _bad(where: str, expected: str, came: str) -> ProtocolError:
    return ProtocolError(ErrorCode.BAD_SPACE, f"{where}: {expected}, got {came}.", fatal=True)


def _read(data: Any, where: str, depth: int) -> Space:
    if depth > MAX_DEPTH:
        raise _bad(where, f"expected at most {MAX_DEPTH} levels", "more")
    if not isinstance(data, list) or not data or not isinstance(data[0], str):
        raise _bad(where, "expected an array [kind, ...]", type(data).__name__)
    kind, *rest = data
    reader = _READERS.get(kind)
    if reader is None:
        raise _bad(where, f"expected a kind among {', '.join(_READERS)}", repr(kind[:40]))
    count, read = reader
    if len(rest) != count:
        raise _bad(where, f"expected {count} elements after '{kind}'", str(len(rest)))
    return read(rest, f"{where}", depth)


def _dtype(name: Any, where: str, kinds: str) -> np.dtype:
    if not isinstance(name, str) or name not in DTYPES or DTYPES[name].kind not in kinds:
        allowed = [n for n, d in DTYPES.items() if d.kind in kinds]
        raise _bad(where, f"expected a dtype among {', '.join(allowed)}", repr(name)[:40])
    return DTYPES[name]


def _integer(value: Any, where: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise _bad(where, f"expected an integer in {low}..{high}", repr(value)[:40])
    return value


def _shape(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 8:
        raise _bad(where, "expected a shape of at most 8 dimensions", repr(value)[:40])
    shape = tuple(_integer(n, f"{where} shape", 0, MAX_ELEMENTS) for n in value)
    if math.prod(shape) > MAX_ELEMENTS:
        raise _bad(where, f"expected at most {MAX_ELEMENTS} elements", str(math.prod(shape)))
    return shape


def _integers(value: Any, where: str, count: int, low: int, high: int) -> np.ndarray:
    if not isinstance(value, list) or len(value) != count:
        raise _bad(where, f"expected {count} integers, one per element", repr(value)[:40])
    return np.array([_integer(v, where, low, high) for v in value], dtype=np.int64)


def _read_box(rest: list[Any], where: str, depth: int) -> Space:
    dtype, shape = _dtype(rest[0], where, "buif"), _shape(rest[1], where)
    bounds = []
    for name, value in zip(("low", "high"), rest[2:], strict=True):
        if isinstance(value, bytes):
            if len(value) != math.prod(shape) * dtype.itemsize:
                raise _bad(
                    where, f"expected {name} with one {dtype.name} per element", "another length"
                )
            value = np.frombuffer(value, dtype).reshape(shape)
        elif not isinstance(value, (int, float)):
            raise _bad(where, f"expected {name} as a number or bin", type(value).__name__)
        elif dtype.kind in "ui" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
            raise _bad(where, f"expected {name} within {dtype.name}", repr(value))
        bounds.append(value)
    with np.errstate(all="ignore"):
        box = Box(bounds[0], bounds[1], shape, dtype)
    if np.isnan(box.low).any() or np.isnan(box.high).any() or (box.low > box.high).any():
        raise _bad(where, "expected low <= high everywhere", "the contrary, or NaN")
    return box


def _read_discrete(rest: list[Any], where: str, depth: int) -> Space:
    dtype = _dtype(rest[0], where, "ui")
    n = _integer(rest[1], f"{where} n", 1, MAX_CHOICES)
    start = _integer(rest[2], f"{where} start", -(2**31), 2**31)
    space = Discrete(n, start, dtype)
    if not (np.iinfo(dtype).min <= start and start + n - 1 <= np.iinfo(dtype).max):
        raise _bad(
            where, f"expected choices that fit into {dtype.name}", f"{start}..{start + n - 1}"
        )
    return space


def _read_multi_discrete(rest: list[Any], where: str, depth: int) -> Space:
    dtype, shape = _dtype(rest[0], where, "ui"), _shape(rest[1], where)
    count = math.prod(shape)
    nvec = _integers(rest[2], f"{where} nvec", count, 1, MAX_CHOICES)
    start = _integers(rest[3], f"{where} start", count, -(2**31), 2**31)
    info = np.iinfo(dtype)
    if count and (start.min() < info.min or (start + nvec - 1).max() > info.max):
        raise _bad(where, f"expected choices that fit into {dtype.name}", "others")
    return MultiDiscrete(nvec.reshape(shape), dtype, start.reshape(shape))


def _read_multi_binary(rest: list[Any], where: str, depth: int) -> Space:
    return MultiBinary(_shape(rest[1], where), _dtype(rest[0], where, "bui"))


def _read_dict(rest: list[Any], where: str, depth: int) -> Space:
    parts = rest[0]
    if not isinstance(parts, list) or len(parts) > MAX_LEAVES:
        raise _bad(where, f"expected at most {MAX_LEAVES} parts", repr(parts)[:40])
    spaces: dict[str, Space] = {}
    for part in parts:
        if not isinstance(part, list) or len(part) != 2 or not isinstance(part[0], str):
            raise _bad(where, "expected parts [key, space]", repr(part)[:40])
        if part[0] in spaces:
            raise _bad(where, "expected each key once", repr(part[0][:40]))
        spaces[part[0]] = _read(part[1], f"{where}.{part[0][:40]}", depth + 1)
    return Dict(spaces)


def _read_tuple(rest: list[Any], where: str, depth: int) -> Space:
    if not isinstance(rest[0], list) or len(rest[0]) > MAX_LEAVES:
        raise _bad(where, f"expected at most {MAX_LEAVES} parts", repr(rest[0])[:40])
    return Tuple([_read(part, f"{where}[{i}]", depth + 1) for i, part in enumerate(rest[0])])


_READERS: dict[str, tuple[int, Callable[[list[Any], str, int], Space]]] = {
    "box": (4, _read_box),
    "discrete": (3, _read_discrete),
    "multi_discrete": (4, _read_multi_discrete),
    "multi_binary": (2, _read_multi_binary),
    "dict": (1, _read_dict),
    "tuple": (1, _read_tuple),
}


# -- leaves ------------------------------------------------------------------------------------


def leaves(space: Space, path: str = "") -> list[tuple[str, Leaf]]:
    """(path, leaf) of every leaf, depth first in declared order; a bare leaf has path ""."""
    if isinstance(space, Dict):
        parts: Iterator[tuple[str, Space]] = ((f".{k}", s) for k, s in space.spaces.items())
    elif isinstance(space, Tuple):
        parts = ((f"[{i}]", s) for i, s in enumerate(space.spaces))
    else:
        assert isinstance(space, Leaf)
        return [(path, space)]
    return [leaf for key, part in parts for leaf in leaves(part, path + key)]


def choices(leaf: Leaf) -> np.ndarray:
    """Number of options of each discrete element of a leaf, flat: int64[K]; empty for a Box."""
    if isinstance(leaf, Discrete):
        return np.array([leaf.n], dtype=np.int64)
    if isinstance(leaf, MultiDiscrete):
        return leaf.nvec.reshape(-1)
    if isinstance(leaf, MultiBinary):
        return np.full(math.prod(leaf.shape), 2, dtype=np.int64)
    return np.zeros(0, dtype=np.int64)


def mask_width(space: Space) -> int:
    """Bytes of one lane's action mask: one per option of each discrete element."""
    return int(sum(choices(leaf).sum() for _, leaf in leaves(space)))


def flatten(space: Space, value: Any) -> list[np.ndarray]:
    """A batched value -> its columns.

    Shapes: each leaf of `value` is `[n, *leaf.shape]`; so is each column, in wire dtype.

    Raises:
        ValueError: a part is missing, or a leaf has the wrong shape.
    """
    columns: list[np.ndarray] = []
    _flatten(space, value, "", columns)
    return columns


def _flatten(space: Space, value: Any, path: str, columns: list[np.ndarray]) -> None:
    if isinstance(space, Dict):
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            came = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise ValueError(f"{path or 'value'}: expected keys {sorted(space.spaces)}, got {came}")
        for key, part in space.spaces.items():
            _flatten(part, value[key], f"{path}.{key}", columns)
    elif isinstance(space, Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            raise ValueError(f"{path or 'value'}: expected a tuple of {len(space.spaces)} parts")
        for i, part in enumerate(space.spaces):
            _flatten(part, value[i], f"{path}[{i}]", columns)
    else:
        assert isinstance(space, Leaf)
        column = np.ascontiguousarray(value, dtype=space.dtype)
        if column.shape[1:] != space.shape or column.ndim != len(space.shape) + 1:
            expected = f"[n, {', '.join(map(str, space.shape))}]"
            raise ValueError(
                f"{path or 'value'}: expected shape {expected}, got {list(column.shape)}"
            )
        columns.append(column)


def unflatten(space: Space, columns: Sequence[np.ndarray]) -> Any:
    """The inverse of `flatten`: columns -> batched value of the space's own nesting."""
    return _unflatten(space, iter(columns))


def _unflatten(space: Space, columns: Iterator[np.ndarray]) -> Any:
    if isinstance(space, Dict):
        return {key: _unflatten(part, columns) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_unflatten(part, columns) for part in space.spaces)
    return next(columns)
