"""Bytes <-> messages. Every reader distrusts its input; nothing here can be unpickled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from sim_clients.protocol import spaces
from sim_clients.protocol.errors import ErrorCode, ProtocolError
from sim_clients.protocol.messages import (
    Actions,
    ActionsGroup,
    Bye,
    Error,
    Event,
    EventKind,
    GroupSpec,
    Hello,
    Message,
    MessageType,
    Ping,
    Pong,
    Step,
    StepGroup,
    Welcome,
)

MAX_NAME = 128  # characters of any name
MAX_TEXT = 1024  # characters of any sentence
MAX_GROUPS = 64
MAX_LANES = 65536  # per group; a server may allow fewer
U32 = 2**32 - 1
U64 = 2**64 - 1
EXTRAS = frozenset({"mask", "final_obs", "action", "metrics"})


# -- bytes -> msgpack array ---------------------------------------------------------------------


def _no_duplicates(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a map has the same key twice")
    return result


def unpack(frame: bytes) -> list[Any]:
    """One frame -> its msgpack array `[type, ...]`, not yet checked any further.

    Raises:
        ProtocolError: `malformed`.
    """
    try:
        data = msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=True,
            max_ext_len=0,
            object_pairs_hook=_no_duplicates,
        )
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        # msgpack's own errors are ValueErrors; UnicodeDecodeError is one too.
        raise ProtocolError(
            ErrorCode.MALFORMED,
            f"expected one msgpack array per frame, got {len(frame)} bytes that are not one "
            f"({type(error).__name__}).",
        ) from None
    if type(data) is not list or not data or type(data[0]) is not int:
        raise ProtocolError(
            ErrorCode.MALFORMED,
            f"expected a msgpack array that begins with the message type, got {type(data).__name__}.",
        )
    return data


# -- small readers --------------------------------------------------------------------------------


def _fail(where: str, expected: str, value: Any) -> ProtocolError:
    came = (
        repr(value) if isinstance(value, (int, float, bool, type(None))) else type(value).__name__
    )
    return ProtocolError(ErrorCode.MALFORMED, f"{where}: expected {expected}, got {came[:60]}.")


def _int(value: Any, where: str, low: int = 0, high: int = U64) -> int:
    if type(value) is not int or not low <= value <= high:
        raise _fail(where, f"an integer in {low}..{high}", value)
    return value


def _bool(value: Any, where: str) -> bool:
    if type(value) is not bool:
        raise _fail(where, "true or false", value)
    return value


def _str(value: Any, where: str, limit: int = MAX_NAME) -> str:
    if type(value) is not str or len(value) > limit:
        raise _fail(where, f"a string of at most {limit} characters", value)
    return value


def _bin(value: Any, where: str, size: int | None = None) -> bytes:
    if type(value) is not bytes or (size is not None and len(value) != size):
        raise _fail(where, "bin" if size is None else f"bin of {size} bytes", value)
    return value


def _array(value: Any, where: str, size: int | None = None, limit: int = MAX_LANES) -> list[Any]:
    if type(value) is not list or len(value) > limit or (size is not None and len(value) != size):
        came = len(value) if type(value) is list else value
        raise _fail(where, "an array" if size is None else f"an array of {size}", came)
    return value


def _map(value: Any, where: str, limit: int = 256) -> dict[str, Any]:
    if type(value) is not dict or len(value) > limit or any(type(k) is not str for k in value):
        raise _fail(where, "a map with string keys", value)
    return value


def _scalars(value: Any, where: str) -> dict[str, Any]:
    for key, item in _map(value, where).items():
        if item is not None and type(item) not in (bool, int, float, str):
            raise _fail(f"{where}.{key[:40]}", "a number, string, boolean or nil", item)
    return value


# -- one reader and one writer per message ------------------------------------------------------------


def _read_hello(body: list[Any]) -> Hello:
    # The version comes first and alone: a newer HELLO may be laid out differently behind it.
    version = _int(body[0] if body else None, "HELLO.version")
    from sim_clients.protocol.version import PROTOCOL_VERSION

    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            ErrorCode.UNSUPPORTED_VERSION,
            f"expected protocol version {PROTOCOL_VERSION}, got {version}: use a client of that "
            "version.",
            fatal=True,
        )
    _array(body, "HELLO", 9)
    client = _array(body[1], "HELLO.client", 2)
    groups = _array(body[7], "HELLO.groups", limit=MAX_GROUPS)
    if not groups:
        raise _fail("HELLO.groups", "at least one group", 0)
    specs = tuple(_read_group(group, f"HELLO.groups[{i}]") for i, group in enumerate(groups))
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise _fail("HELLO.groups", "each group name once", str(names))
    return Hello(
        version,
        (_str(client[0], "HELLO.client name"), _str(client[1], "HELLO.client version")),
        _bin(body[2], "HELLO.run_id", 16),
        None if body[3] is None else _bin(body[3], "HELLO.resume", 16),
        None if body[4] is None else _str(body[4], "HELLO.identity"),
        tuple(
            _str(c, "HELLO.capabilities") for c in _array(body[5], "HELLO.capabilities", limit=64)
        ),
        None if body[6] is None else _str(body[6], "HELLO.token", MAX_TEXT),
        specs,
        _scalars(body[8], "HELLO.options"),
    )


def _read_group(data: Any, where: str) -> GroupSpec:
    name, observation, action, lanes, options = _array(data, where, 5)
    _str(name, f"{where}.name")
    _map(options, f"{where}.options")
    return GroupSpec(
        name,
        spaces.from_wire(observation, f"group '{name}' observation_space"),
        spaces.from_wire(action, f"group '{name}' action_space"),
        _int(lanes, f"{where}.lanes", 1, MAX_LANES),
        _bool(options.get("mask", False), f"{where}.options.mask"),
    )


def _write_hello(m: Hello) -> list[Any]:
    groups = [
        [
            g.name,
            g.observation_space.to_wire(),
            g.action_space.to_wire(),
            g.lanes,
            {"mask": True} if g.mask else {},
        ]
        for g in m.groups
    ]
    return [
        m.version, list(m.client), m.run_id, m.resume, m.identity, list(m.capabilities), m.token,
        groups, m.options,
    ]  # fmt: skip


def _read_welcome(body: list[Any]) -> Welcome:
    _array(body, "WELCOME", 8)
    groups = []
    for i, group in enumerate(_array(body[6], "WELCOME.groups", limit=MAX_GROUPS)):
        policy, version = _array(group, f"WELCOME.groups[{i}]", 2)
        groups.append((_str(policy, "WELCOME policy"), _int(version, "WELCOME policy version")))
    return Welcome(
        _int(body[0], "WELCOME.version"),
        _bin(body[1], "WELCOME.session_id", 16),
        _int(body[2], "WELCOME.epoch", 1, U32),
        _bool(body[3], "WELCOME.resumed"),
        _int(body[4], "WELCOME.next_seq", 1),
        _scalars(body[5], "WELCOME.limits"),
        tuple(groups),
        _scalars(body[7], "WELCOME.parameters"),
    )


def _write_welcome(m: Welcome) -> list[Any]:
    groups = [list(group) for group in m.groups]
    return [m.version, m.session_id, m.epoch, m.resumed, m.next_seq, m.limits, groups, m.parameters]


def _read_step(body: list[Any]) -> Step:
    _array(body, "STEP", 2)
    seq = _int(body[0], "STEP.seq", 1)
    groups: list[StepGroup | None] = []
    for i, group in enumerate(_array(body[1], "STEP.groups", limit=MAX_GROUPS)):
        if group is None:
            groups.append(None)
            continue
        where = f"STEP.groups[{i}]"
        lanes, flags, rewards, observations, extras = _array(group, where, 5)
        for column in _array(observations, f"{where}.observations", limit=spaces.MAX_LEAVES):
            _bin(column, f"{where}.observations")
        if extras is not None and not _map(extras, f"{where}.extras").keys() <= EXTRAS:
            raise _fail(
                f"{where}.extras", f"keys among {', '.join(sorted(EXTRAS))}", str(list(extras))
            )
        groups.append(
            StepGroup(
                None if lanes is None else _bin(lanes, f"{where}.lanes"),
                _bin(flags, f"{where}.flags"),
                _bin(rewards, f"{where}.rewards"),
                observations,
                extras,
            )
        )
    return Step(seq, groups)


def _write_step(m: Step) -> list[Any]:
    return [m.seq, [None if g is None else list(g) for g in m.groups]]


def _read_actions(body: list[Any]) -> Actions:
    _array(body, "ACTIONS", 3)
    groups: list[ActionsGroup | None] = []
    for i, group in enumerate(_array(body[2], "ACTIONS.groups", limit=MAX_GROUPS)):
        if group is None:
            groups.append(None)
            continue
        version, columns = _array(group, f"ACTIONS.groups[{i}]", 2)
        for column in _array(columns, f"ACTIONS.groups[{i}].actions", limit=spaces.MAX_LEAVES):
            _bin(column, f"ACTIONS.groups[{i}].actions")
        groups.append(ActionsGroup(_int(version, "ACTIONS policy version"), columns))
    return Actions(_int(body[0], "ACTIONS.seq", 1), _int(body[1], "ACTIONS.epoch", 1, U32), groups)


def _write_actions(m: Actions) -> list[Any]:
    return [m.seq, m.epoch, [None if g is None else list(g) for g in m.groups]]


def _read_ping(body: list[Any]) -> Ping:
    return Ping(_int(_array(body, "PING", 1)[0], "PING.token"))


def _read_pong(body: list[Any]) -> Pong:
    token, epoch = _array(body, "PONG", 2)
    return Pong(_int(token, "PONG.token"), _int(epoch, "PONG.epoch", 1, U32))


def _read_event(body: list[Any]) -> Event:
    kind, seq, data = _array(body, "EVENT", 3)
    if type(kind) is not str or kind not in EventKind.ALL:
        raise _fail("EVENT.kind", f"one of {', '.join(sorted(EventKind.ALL))}", kind)
    return Event(
        kind, None if seq is None else _int(seq, "EVENT.seq"), _scalars(data, "EVENT.data")
    )


def _read_error(body: list[Any]) -> Error:
    code, fatal, seq, text = _array(body, "ERROR", 4)
    return Error(
        _str(code, "ERROR.code"),
        _bool(fatal, "ERROR.fatal"),
        None if seq is None else _int(seq, "ERROR.seq"),
        _str(text, "ERROR.text", MAX_TEXT),
    )


def _read_bye(body: list[Any]) -> Bye:
    return Bye(_str(_array(body, "BYE", 1)[0], "BYE.reason", MAX_TEXT))


_READERS: dict[int, Callable[[list[Any]], Message]] = {
    MessageType.HELLO: _read_hello,
    MessageType.WELCOME: _read_welcome,
    MessageType.STEP: _read_step,
    MessageType.ACTIONS: _read_actions,
    MessageType.PING: _read_ping,
    MessageType.PONG: _read_pong,
    MessageType.EVENT: _read_event,
    MessageType.ERROR: _read_error,
    MessageType.BYE: _read_bye,
}
_WRITERS: dict[type, tuple[int, Callable[[Any], list[Any]]]] = {
    Hello: (MessageType.HELLO, _write_hello),
    Welcome: (MessageType.WELCOME, _write_welcome),
    Step: (MessageType.STEP, _write_step),
    Actions: (MessageType.ACTIONS, _write_actions),
    Ping: (MessageType.PING, list),
    Pong: (MessageType.PONG, list),
    Event: (MessageType.EVENT, list),
    Error: (MessageType.ERROR, list),
    Bye: (MessageType.BYE, list),
}


def read(data: list[Any]) -> Message:
    """An unpacked array -> its message, every field checked.

    Raises:
        ProtocolError: naming the field.
    """
    reader = _READERS.get(data[0])
    if reader is None:
        raise ProtocolError(
            ErrorCode.UNSUPPORTED_MESSAGE,
            f"expected a message type among {sorted(int(t) for t in _READERS)}, got {data[0]}.",
        )
    return reader(data[1:])


def decode(frame: bytes) -> Message:
    """One frame -> one message. Raises ProtocolError."""
    return read(unpack(frame))


def encode(message: Message) -> bytes:
    """One message -> one frame."""
    number, write = _WRITERS[type(message)]
    return msgpack.packb([int(number), *write(message)], use_bin_type=True)
