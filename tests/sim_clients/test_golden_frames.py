"""The shipped frames, read and written by this codec."""

from __future__ import annotations

import pytest

from sim_clients.conformance import golden
from sim_clients.conformance.__main__ import main
from sim_clients.protocol import ErrorCode, EventKind, Flag, ProtocolError, Step, decode, encode

FRAMES = golden.load()


@pytest.mark.parametrize("frame", FRAMES["valid"], ids=lambda f: f["name"])
def test_bytes_mean_what_the_file_says(frame):
    assert golden.meaning(decode(bytes.fromhex(frame["hex"]))) == frame["message"]


@pytest.mark.parametrize("frame", FRAMES["valid"], ids=lambda f: f["name"])
def test_meaning_is_written_as_the_same_bytes(frame):
    assert encode(golden.message_of(frame["message"])).hex() == frame["hex"]


@pytest.mark.parametrize("frame", FRAMES["invalid"], ids=lambda f: f["name"])
def test_invalid_frames_are_refused_with_the_code_of_the_file(frame):
    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex(frame["hex"]))
    assert caught.value.code == frame["code"]


def test_the_file_is_what_the_examples_make(tmp_path, capsys):
    assert main(["--check"]) == 0
    stale = tmp_path / "frames.json"
    stale.write_text("{}")
    assert main(["--check", "--output", str(stale)]) == 1
    assert "run without --check" in capsys.readouterr().err
    assert main(["--output", str(stale)]) == 0
    assert main(["--check", "--output", str(stale)]) == 0


def test_the_file_covers_every_type_flag_event_and_extra():
    messages = [decode(bytes.fromhex(f["hex"])) for f in FRAMES["valid"]]
    types = {f["message"]["type"] for f in FRAMES["valid"]}
    assert types == {
        "HELLO", "WELCOME", "STEP", "ACTIONS", "PING", "PONG", "EVENT", "ERROR", "BYE",
    }  # fmt: skip
    groups = [g for m in messages if isinstance(m, Step) for g in m.groups if g is not None]
    bits = 0
    for group in groups:
        for flags in group.flags:
            bits |= flags
    assert bits == Flag.ALL
    assert {key for g in groups for key in g.extras or {}} == {
        "mask",
        "final_obs",
        "action",
        "metrics",
    }
    events = {f["message"]["kind"] for f in FRAMES["valid"] if f["message"]["type"] == "EVENT"}
    assert events == EventKind.ALL
    assert {f["code"] for f in FRAMES["invalid"]} == {
        ErrorCode.MALFORMED, ErrorCode.BAD_SPACE,
        ErrorCode.UNSUPPORTED_MESSAGE, ErrorCode.UNSUPPORTED_VERSION,
    }  # fmt: skip
