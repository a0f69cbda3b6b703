"""The messages of the golden frames: every type, every kind of space, every flag and extra."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack

from sim_clients.protocol import (
    PROTOCOL_VERSION,
    Actions,
    ActionsGroup,
    Box,
    Bye,
    Dict,
    Discrete,
    Error,
    ErrorCode,
    Event,
    EventKind,
    Flag,
    GroupSpec,
    Hello,
    MultiBinary,
    MultiDiscrete,
    Ping,
    Pong,
    Step,
    StepGroup,
    Tuple,
    Welcome,
    encode,
)
from sim_clients.protocol.messages import Message
from sim_clients.protocol.spaces import DTYPES

RUN_ID = bytes(range(16))
SESSION_ID = bytes(range(16, 32))
EPOCH = 305419896


def floats(*values: float) -> bytes:
    """float32, little-endian."""
    return struct.pack(f"<{len(values)}f", *values)


def uint32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def int64(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


CARTPOLE = GroupSpec("agent", Box(-math.inf, math.inf, (4,)), Discrete(2), 1)
PAIR = GroupSpec("agent", Box(-1.0, 1.0, (2,)), Discrete(3), 4)
NESTED = GroupSpec(
    "walker",
    Dict(
        {
            "camera": Box(0, 255, (2, 2, 3), "uint8"),
            "body": Tuple((Box([-1.0, -2.0], [1.0, 2.0], (2,), "float64"), MultiBinary((3,)))),
            "mode": Discrete(5, -2, "int16"),
        }
    ),
    Dict(
        {
            "legs": Box(-1.0, 1.0, (2,)),
            "gears": MultiDiscrete([2, 3], "int32", [0, 1]),
            "lamps": MultiBinary((2,)),
            "horn": Discrete(2),
        }
    ),
    2,
    mask=True,
)


def hello(*groups: GroupSpec) -> Hello:
    return Hello(
        PROTOCOL_VERSION, ("example", "1.0"), RUN_ID, None, None, (), None, groups or (CARTPOLE,)
    )


def welcome(**changes: Any) -> Welcome:
    plain = Welcome(
        PROTOCOL_VERSION,
        SESSION_ID,
        EPOCH,
        False,
        1,
        {"max_message_bytes": 268435456, "max_lanes": 65536, "lease_s": 60.0, "window": 2},
        (("default_policy", 0),),
        {},
    )
    return plain._replace(**changes)


def one(flags: int, reward: float = 0.0, extras: dict[str, Any] | None = None) -> StepGroup:
    """A row of the CartPole group."""
    return StepGroup(None, bytes([flags]), floats(reward), [floats(0.0, 0.5, -0.5, 1.0)], extras)


_FLAG_ROWS: dict[str, int] = {
    "first": Flag.FIRST,
    "going_on": 0,
    "terminated_first": Flag.TERMINATED | Flag.FIRST,
    "truncated_first": Flag.TRUNCATED | Flag.FIRST,
    "terminated_leaving": Flag.TERMINATED | Flag.LEAVING,
    "truncated_leaving": Flag.TRUNCATED | Flag.LEAVING,
    "leaving": Flag.LEAVING,
    "first_leaving": Flag.FIRST | Flag.LEAVING,
    "continued": Flag.CONTINUED,
    "continued_leaving": Flag.CONTINUED | Flag.LEAVING,
}


def _flag_example(flags: int) -> Step:
    cut = flags == Flag.TRUNCATED | Flag.FIRST
    final = {"final_obs": [uint32(0), [floats(9.0, 8.0, 7.0, 6.0)]]} if cut else None
    return Step(2, [one(flags, 1.0, final)])


def messages() -> dict[str, Message]:
    """Name -> message, in the order of the golden frames."""
    every_dtype = Dict({name: Box(0, 1, (1,), name) for name in DTYPES})
    walker_rows = StepGroup(
        uint32(1),
        bytes([0]),
        floats(-0.25),
        [bytes(range(12)), struct.pack("<2d", 0.5, -1.5), bytes([1, 0, 1]), struct.pack("<h", -2)],
        # 2 + 3 options of gears, 2 + 2 of lamps, 2 of horn
        {"mask": bytes([1, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1])},
    )
    some_lanes = StepGroup(
        uint32(3, 0),
        bytes([0, Flag.TRUNCATED | Flag.FIRST]),
        floats(1.0, -1.0),
        [floats(0.1, 0.2, 0.3, 0.4)],
        {
            "final_obs": [uint32(1), [floats(0.5, 0.6)]],
            "action": [uint32(0), [int64(2)]],
            "metrics": [[1, {"score": 12.5, "kills": 3.0}]],
        },
    )
    return {
        "hello": hello(),
        "hello_resume_identity_token_options": hello()._replace(
            resume=SESSION_ID,
            identity="arena-3",
            capabilities=("example",),
            token="secret",
            options={"lease_s": 30.0},
        ),
        "hello_two_groups_nested_spaces_mask": hello(PAIR, NESTED),
        "hello_every_dtype": hello(GroupSpec("agent", every_dtype, Discrete(2), 1)),
        "hello_scalar_box_empty_shape": hello(
            GroupSpec("agent", Box(0.0, 1.0, ()), MultiDiscrete([[2, 2], [3, 3]]), 2)
        ),
        "welcome": welcome(),
        "welcome_resumed_parameters": welcome(
            resumed=True,
            next_seq=12,
            groups=(("red", 7), ("blue", 4294967296)),
            parameters={"gravity": 9.5, "level": 3, "map": "cave", "night": True},
        ),
        **{f"step_{name}": _flag_example(flags) for name, flags in _FLAG_ROWS.items()},
        "step_some_lanes_all_extras": Step(300, [some_lanes]),
        "step_two_groups": Step(70000, [some_lanes, walker_rows]),
        "step_one_of_two_groups": Step(4294967296, [None, walker_rows]),
        "actions": Actions(1, EPOCH, [ActionsGroup(0, [int64(1)])]),
        "actions_two_groups": Actions(
            70000,
            EPOCH,
            [
                ActionsGroup(5, [int64(2, 0)]),
                ActionsGroup(
                    6,
                    [floats(0.5, -0.5), struct.pack("<2i", 1, 3), bytes([0, 1]), int64(0)],
                ),
            ],
        ),
        "actions_one_of_two_groups": Actions(4294967296, EPOCH, [None, ActionsGroup(6, [b""])]),
        "ping": Ping(18446744073709551615),
        "pong": Pong(18446744073709551615, EPOCH),
        "event_wait": Event(EventKind.WAIT, 12, {}),
        "event_pause": Event(EventKind.PAUSE, None, {}),
        "event_resume": Event(EventKind.RESUME, None, {}),
        "event_drain": Event(EventKind.DRAIN, None, {}),
        "event_parameters": Event(EventKind.PARAMETERS, None, {"gravity": 3.5, "map": None}),
        "event_shutdown": Event(EventKind.SHUTDOWN, None, {"reason": "update"}),
        "event_shutdown_final": Event(
            EventKind.SHUTDOWN, None, {"final": True, "reason": "training is over"}
        ),
        "error_request": Error(
            ErrorCode.BAD_OBSERVATION,
            False,
            12,
            "group 'agent', lane 0: expected finite numbers, got nan: check the simulator.",
        ),
        "error_fatal": Error(ErrorCode.UNAUTHORIZED, True, None, "expected a token, got none."),
        "error_unknown_session": Error(
            ErrorCode.UNKNOWN_SESSION, False, 3, "expected HELLO first on this connection."
        ),
        "bye": Bye("done"),
        "bye_unicode": Bye("Schluß — 終"),
    }


def _packed(*parts: object) -> bytes:
    frame: bytes = msgpack.packb(list(parts), use_bin_type=True)
    return frame


def _hello_with_space(space: object) -> bytes:
    group = ["agent", space, ["discrete", "int64", 2, 0], 1, {}]
    return _packed(1, 1, ["x", "1"], RUN_ID, None, None, [], None, [group], {})


def invalid() -> dict[str, tuple[bytes, str]]:
    """Name -> (frame, error code of whoever reads it)."""
    malformed, bad_space = ErrorCode.MALFORMED, ErrorCode.BAD_SPACE
    box = ["box", "float32", [2], -1.0, 1.0]
    deep: object = box
    for _ in range(9):
        deep = ["tuple", [deep]]
    return {
        "empty": (b"", malformed),
        "not_msgpack": (b"\xc1", malformed),
        "http": (b"GET / HTTP/1.1\r\n\r\n", malformed),
        "truncated": (encode(hello())[:-1], malformed),
        "trailing_bytes": (encode(Bye("done")) + b"\x00", malformed),
        "a_map": (msgpack.packb({"type": 1}), malformed),
        "empty_array": (b"\x90", malformed),
        "type_is_a_string": (_packed("HELLO"), malformed),
        "bad_utf8": (b"\x92\x0b\xa2\xff\xfe", malformed),
        "ext_type": (b"\x92\x0b\xd4\x01\x00", malformed),
        "duplicate_keys": (b"\x94\x09\xa5pause\xc0\x82\xa1a\x01\xa1a\x02", malformed),
        "unknown_type": (_packed(99), ErrorCode.UNSUPPORTED_MESSAGE),
        "reserved_experience": (_packed(5, 1), ErrorCode.UNSUPPORTED_MESSAGE),
        "reserved_weights": (_packed(6, 1), ErrorCode.UNSUPPORTED_MESSAGE),
        "newer_version": (_packed(1, 2, "whatever"), ErrorCode.UNSUPPORTED_VERSION),
        "hello_too_short": (_packed(1, 1, ["x", "1"]), malformed),
        "hello_no_groups": (
            _packed(1, 1, ["x", "1"], RUN_ID, None, None, [], None, [], {}),
            malformed,
        ),
        "hello_short_run_id": (
            _packed(1, 1, ["x", "1"], RUN_ID[:8], None, None, [], None, [], {}),
            malformed,
        ),
        "hello_same_group_twice": (
            _packed(
                1, 1, ["x", "1"], RUN_ID, None, None, [], None,
                [["a", box, box, 1, {}], ["a", box, box, 1, {}]], {},
            ),
            malformed,
        ),
        "hello_no_lanes": (
            _packed(1, 1, ["x", "1"], RUN_ID, None, None, [], None, [["a", box, box, 0, {}]], {}),
            malformed,
        ),
        "space_unknown_kind": (_hello_with_space(["text", 5]), bad_space),
        "space_unknown_dtype": (_hello_with_space(["box", "float128", [1], 0, 1]), bad_space),
        "space_low_above_high": (_hello_with_space(["box", "float32", [1], 1.0, 0.0]), bad_space),
        "space_nan_bound": (_hello_with_space(["box", "float32", [1], math.nan, 0.0]), bad_space),
        "space_short_bounds": (
            _hello_with_space(["box", "float32", [2], floats(0.0), 1.0]),
            bad_space,
        ),
        "space_no_choice": (_hello_with_space(["discrete", "int64", 0, 0]), bad_space),
        "space_no_leaf": (_hello_with_space(["dict", []]), bad_space),
        "space_too_deep": (_hello_with_space(deep), bad_space),
        "step_seq_zero": (_packed(3, 0, []), malformed),
        "step_groups_missing": (_packed(3, 1), malformed),
        "step_flags_a_string": (_packed(3, 1, [[None, "x", bytes(4), [bytes(16)], None]]), malformed),
        "step_unknown_extra": (
            _packed(3, 1, [[None, b"\x00", bytes(4), [bytes(16)], {"colour": b""}]]),
            malformed,
        ),
        "event_unknown_kind": (_packed(9, "dance", None, {}), malformed),
        "bye_reason_missing": (_packed(11), malformed),
    }  # fmt: skip
