"""What can be wrong with a message: stable codes, and the exception that carries one."""

from __future__ import annotations


class ErrorCode:
    """Stable words on the wire. `docs/PROTOCOL.md` says what each one asks of the client."""

    MALFORMED = "malformed"  # not msgpack, or not the layout of its type
    UNSUPPORTED_VERSION = "unsupported_version"  # fatal
    UNSUPPORTED_MESSAGE = "unsupported_message"  # a reserved or unknown type number
    UNAUTHORIZED = "unauthorized"  # fatal
    UNKNOWN_SESSION = "unknown_session"  # say HELLO (again)
    UNKNOWN_GROUP = "unknown_group"  # fatal: no policy is mapped to this group
    BAD_SPACE = "bad_space"  # fatal: a space the server cannot read or learn in
    SPACE_MISMATCH = "space_mismatch"  # fatal: not the spaces this policy has
    LIMIT_EXCEEDED = "limit_exceeded"
    BAD_SEQUENCE = "bad_sequence"
    CONFLICTING_RETRY = "conflicting_retry"  # the same number, another content
    BAD_LANE = "bad_lane"
    BAD_FLAGS = "bad_flags"
    BAD_OBSERVATION = "bad_observation"
    BAD_REWARD = "bad_reward"
    BAD_ACTION = "bad_action"
    BAD_MASK = "bad_mask"
    BAD_METRIC = "bad_metric"
    SHUTTING_DOWN = "shutting_down"  # not fatal: come back later
    INTERNAL = "internal"  # the server's own fault; this request is void

    ALL = frozenset(
        {
            "malformed", "unsupported_version", "unsupported_message", "unauthorized",
            "unknown_session", "unknown_group", "bad_space", "space_mismatch",
            "limit_exceeded", "bad_sequence", "conflicting_retry", "bad_lane", "bad_flags",
            "bad_observation", "bad_reward", "bad_action", "bad_mask", "bad_metric",
            "shutting_down", "internal",
        }
    )  # fmt: skip


class ProtocolError(Exception):
    """A message that breaks the protocol.

    Attributes:
        code: one of `ErrorCode`.
        text: one plain sentence: what was expected, what came, the remedy.
        fatal: True where the session cannot go on.
        seq: the sequence number of the request at fault, if it has one.
    """

    def __init__(self, code: str, text: str, *, fatal: bool = False, seq: int | None = None):
        super().__init__(text)
        self.code = code
        self.text = text
        self.fatal = fatal
        self.seq = seq

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"
