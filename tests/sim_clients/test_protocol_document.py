"""docs/PROTOCOL.md says what the code does: codes, events, flags, and the bytes of its examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim_clients.conformance import golden
from sim_clients.conformance.referee import flag_problem
from sim_clients.protocol import ErrorCode, EventKind, MessageType
from sim_clients.protocol.spaces import DTYPES

TEXT = (Path(__file__).parents[2] / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")


def section(number: int) -> str:
    parts = re.split(r"^## (\d+)\. ", TEXT, flags=re.MULTILINE)
    return parts[parts.index(str(number)) + 1]


def table(text: str, column: int = 0) -> list[str]:
    """Cells of one column of all tables, without their headings."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    heads = {i for i, row in enumerate(rows) if set(row[0].strip()) <= {"-"}}
    return [
        row[column].strip() for i, row in enumerate(rows) if i not in heads and i + 1 not in heads
    ]


@pytest.mark.parametrize("name", re.findall(r"^```hex (\w+)$", TEXT, flags=re.MULTILINE))
def test_examples_are_the_golden_frames(name):
    shown = re.search(rf"^```hex {name}\n(.*?)```", TEXT, flags=re.MULTILINE | re.DOTALL).group(1)
    (frame,) = [f for f in golden.load()["valid"] if f["name"] == name]
    assert "".join(shown.split()) == frame["hex"]


def test_every_error_code_event_type_and_dtype_has_its_line():
    assert {cell.strip("`") for cell in table(section(12))} == ErrorCode.ALL
    events = section(3).split("### 3.6")[1].split("### 3.7")[0]
    assert {cell.strip("`") for cell in table(events)} == EventKind.ALL
    types = table(section(3).split("### 3.1")[0])
    assert [int(cell) for cell in types] == [int(number) for number in MessageType]
    named = {d for d in re.findall(r"\b(?:u?int\d+|float\d+|bool)\b", " ".join(table(section(4))))}
    assert named == set(DTYPES)


def test_flag_table_lists_exactly_the_legal_bytes():
    legal = section(5).split("These are all the legal bytes")[1]
    listed: dict[int, set[str]] = {}
    for byte, before in zip(table(legal), table(legal, 2), strict=True):
        listed.setdefault(int(byte), set()).update(before.split(" or "))
    for flags in range(256):
        allowed = {
            name
            for name, running in (("idle", False), ("open", True))
            if flag_problem(flags, running) is None
        }
        assert listed.get(flags, set()) == allowed, flags
