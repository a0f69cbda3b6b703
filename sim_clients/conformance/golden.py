"""Golden frames: the bytes of the examples beside their meaning as JSON.

In a meaning, `bin` is a string of hex digits, infinity is "Infinity" or "-Infinity", a space is
its wire array, and a message is an object of its fields with "type" first.
"""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any

from sim_clients.conformance.examples import invalid, messages
from sim_clients.protocol import (
    Actions,
    ActionsGroup,
    Bye,
    Error,
    Event,
    GroupSpec,
    Hello,
    Ping,
    Pong,
    Space,
    Step,
    StepGroup,
    Welcome,
    encode,
    spaces,
)
from sim_clients.protocol.messages import Message

_TYPES: tuple[type, ...] = (Hello, Welcome, Step, Actions, Ping, Pong, Event, Error, Bye)
_NAMES = {kind.__name__.upper(): kind for kind in _TYPES}


def meaning(message: Message) -> dict[str, Any]:
    """A message as JSON."""
    return {"type": type(message).__name__.upper(), **_plain(message)}


def _plain(value: Any) -> Any:
    if isinstance(value, Space):
        return _plain(value.to_wire())
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if hasattr(value, "_asdict"):
        return {key: _plain(part) for key, part in value._asdict().items()}
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


def message_of(data: dict[str, Any]) -> Message:
    """The inverse of `meaning`."""
    fields = {key: value for key, value in data.items() if key != "type"}
    kind = _NAMES[data["type"]]
    if kind is Hello:
        for key in ("run_id", "resume"):
            fields[key] = _bytes(fields[key])
        fields["client"] = tuple(fields["client"])
        fields["capabilities"] = tuple(fields["capabilities"])
        fields["groups"] = tuple(
            GroupSpec(
                group["name"],
                _space(group["observation_space"]),
                _space(group["action_space"]),
                group["lanes"],
                group["mask"],
            )
            for group in fields["groups"]
        )
    elif kind is Welcome:
        fields["session_id"] = _bytes(fields["session_id"])
        fields["groups"] = tuple(tuple(group) for group in fields["groups"])
    elif kind is Step:
        fields["groups"] = [None if g is None else _step_group(g) for g in fields["groups"]]
    elif kind is Actions:
        fields["groups"] = [
            None if g is None else ActionsGroup(g["version"], [_bytes(c) for c in g["actions"]])
            for g in fields["groups"]
        ]
    return kind(**fields)


def _bytes(text: str | None) -> Any:
    return None if text is None else bytes.fromhex(text)


def _space(data: list[Any]) -> Space:
    """Bounds of a box are the only places where hex and infinities can stand."""
    kind, *rest = data
    if kind == "box":
        bounds = [_bound(value) for value in rest[2:]]
        return spaces.from_wire([kind, *rest[:2], *bounds])
    if kind == "dict":
        return spaces.Dict({key: _space(part) for key, part in rest[0]})
    if kind == "tuple":
        return spaces.Tuple(tuple(_space(part) for part in rest[0]))
    return spaces.from_wire(data)


def _bound(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return float(value) if value.endswith("Infinity") else bytes.fromhex(value)


def _step_group(data: dict[str, Any]) -> StepGroup:
    extras = data["extras"]
    if extras is not None:
        extras = dict(extras)
        if "mask" in extras:
            extras["mask"] = _bytes(extras["mask"])
        for key in ("final_obs", "action"):
            if key in extras:
                rows, columns = extras[key]
                extras[key] = [_bytes(rows), [_bytes(column) for column in columns]]
    return StepGroup(
        _bytes(data["lanes"]),
        _bytes(data["flags"]),
        _bytes(data["rewards"]),
        [_bytes(column) for column in data["observations"]],
        extras,
    )


def build() -> dict[str, Any]:
    """The content of `frames.json`, made from the examples."""
    return {
        "version": 1,
        "valid": [
            {"name": name, "hex": encode(message).hex(), "message": meaning(message)}
            for name, message in messages().items()
        ],
        "invalid": [
            {"name": name, "hex": frame.hex(), "code": code}
            for name, (frame, code) in invalid().items()
        ],
    }


def text() -> str:
    """`frames.json`, byte for byte: one frame per line."""
    content = build()
    lines = []
    for key in ("valid", "invalid"):
        frames = ",\n".join(f"  {json.dumps(frame, ensure_ascii=False)}" for frame in content[key])
        lines.append(f' "{key}": [\n{frames}\n ]')
    return f'{{\n "version": {content["version"]},\n' + ",\n".join(lines) + "\n}\n"


def load() -> dict[str, Any]:
    """The shipped golden frames."""
    shipped = files("sim_clients.conformance").joinpath("frames.json")
    data: dict[str, Any] = json.loads(shipped.read_text(encoding="utf-8"))
    return data
