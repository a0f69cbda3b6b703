"""Spaces <-> strict JSON, for settings and checkpoints.

The wire form of a space (`Space.to_wire`) may hold bytes and infinities, which JSON has not:
bytes become `{"hex": "00ff"}`, non-finite numbers `{"float": "-inf"}`. The wire form itself
never holds a map, so the two cannot be taken for anything else.
"""

from __future__ import annotations

import math
from typing import Any

from sim_clients.protocol import spaces
from sim_clients.protocol.errors import ProtocolError
from sim_clients.protocol.spaces import Space


def wire_to_json(wire: Any) -> Any:
    """What `Space.to_wire` gives -> strict JSON."""
    if isinstance(wire, bytes):
        return {"hex": wire.hex()}
    if isinstance(wire, float) and not math.isfinite(wire):
        return {"float": str(wire)}
    if isinstance(wire, (list, tuple)):
        return [wire_to_json(part) for part in wire]
    return wire


def json_to_wire(data: Any) -> Any:
    """The inverse of `wire_to_json`.

    Raises:
        ValueError: a map that is none of the two above.
    """
    if isinstance(data, list):
        return [json_to_wire(part) for part in data]
    if not isinstance(data, dict):
        return data
    match list(data.items()):
        case [("hex", str(text))]:
            return bytes.fromhex(text)
        case [("float", "inf" | "-inf" as text)]:
            return float(text)
    raise ValueError(f'expected {{"hex": ...}} or {{"float": "inf"}}, got a map of {sorted(data)}')


def space_to_json(space: Space) -> Any:
    """A protocol space -> strict JSON."""
    return wire_to_json(space.to_wire())


def space_from_json(data: Any, where: str) -> Space:
    """The inverse of `space_to_json`, of a file that anybody may have written.

    Raises:
        ValueError: not a space; the sentence begins with `where`.
    """
    try:
        return spaces.from_wire(json_to_wire(data), where)
    except ProtocolError as error:
        raise ValueError(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from None
