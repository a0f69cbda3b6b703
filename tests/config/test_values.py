"""One value against one annotation: what is taken, what it becomes, what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_server.config_values import coerce, coerce_fields, describe, dump, free_form
from policy_server.errors import ConfigError

Points = tuple[tuple[int, float], ...]


@pytest.mark.parametrize(
    ("hint", "given_", "expected"),
    [
        (float, 3, 3.0),
        (float, "inf", math.inf),
        (float, "-INFINITY", -math.inf),
        (float, "1e-3", 0.001),
        (float, "1.5E+2", 150.0),
        (float, np.float32(0.5), 0.5),
        (int, 4000.0, 4000),
        (int, "1e6", 1_000_000),
        (int, np.int64(3), 3),
        (bool, True, True),
        (str, "inf", "inf"),
        (float | None, None, None),
        (float | None, "none", None),
        (float | None, 2, 2.0),
        (str | None, "None", None),
        (int | float, 3, 3),
        (int | float, 3.5, 3.5),
        (float | str, "tanh", "tanh"),
        (tuple[int, ...], [64, 64], (64, 64)),
        (tuple[int, ...] | None, [], ()),
        (tuple[int, int] | None, [84, 84], (84, 84)),
        (tuple[tuple[int, int, int], ...] | None, [[16, 4, 2], (32, 4, 2)], ((16, 4, 2), (32, 4, 2))),
        (Points | None, [[0, 1], [1e6, "1e-2"]], ((0, 1.0), (1_000_000, 0.01))),
        (list[str], ("a",), ["a"]),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (dict[str, Any], {"a": (1, {"b": None})}, {"a": [1, {"b": None}]}),
        (Literal["a", "b"], "b", "b"),
    ],
)  # fmt: skip
def test_taken(hint: Any, given_: Any, expected: Any) -> None:
    value = coerce(hint, given_, "here")
    assert value == expected
    assert type(value) is type(expected)
    assert repr(value) == repr(expected)  # 1.0 is not 1, nor is True
    assert repr(coerce(hint, json.loads(json.dumps(dump(value), allow_nan=False)), "here")) == repr(
        value
    )


@pytest.mark.parametrize(
    ("hint", "given_", "text"),
    [
        (float, "fast", "here: expected a number, got 'fast' (str)."),
        (float, "0.1", "here: expected a number, got '0.1' (str)."),
        (float, True, "here: expected a number, got True (bool)."),
        (float, math.nan, "here: expected a number, got nan (float)."),
        (float, None, "here: expected a number, got None (NoneType)."),
        (int, 0.5, "here: expected a whole number, got 0.5 (float)."),
        (int, math.inf, "here: expected a whole number, got inf (float)."),
        (int, "inf", "here: expected a whole number, got 'inf' (str)."),
        (int, "4", "here: expected a whole number, got '4' (str)."),
        (bool, 1, "here: expected true or false, got 1 (int)."),
        (bool, "true", "here: expected true or false, got 'true' (str)."),
        (str, 5, "here: expected text, got 5 (int)."),
        (int | float, "x", "here: expected a whole number or a number, got 'x' (str)."),
        (int | float, None, "here: expected a whole number or a number, got None (NoneType)."),
        (tuple[int, ...], 64, "here: expected a list, each element a whole number, got 64 (int)."),
        (tuple[int, ...], "64", "here: expected a list, each element a whole number, got '64' (str)."),
        (tuple[int, ...], [64, "x"], "here[1]: expected a whole number, got 'x' (str)."),
        (tuple[int, int], [1], "here: expected a list of 2 (a whole number, a whole number), got [1] (list)."),
        (dict[str, str], {"a": 1}, "here.a: expected text, got 1 (int)."),
        (dict[str, str], {1: "a"}, "here: expected text as every key, got 1 (int)."),
        (dict[str, str], ["a"], "here: expected a table of settings, got ['a'] (list)."),
        (Literal["a", 1], "c", "here: expected one of 'a', 1, got 'c' (str)."),
        (Literal["a", 1], True, "here: expected one of 'a', 1, got True (bool)."),
    ],
)  # fmt: skip
def test_refused(hint: Any, given_: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        coerce(hint, given_, "here")
    assert str(caught.value) == text


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(ConfigError, match=r"got 'x{56}\.\.\. \(str\)"):
        coerce(int, "x" * 500, "here")


def test_an_annotation_nobody_can_coerce_is_the_authors_fault() -> None:
    with pytest.raises(TypeError, match="not supported"):
        coerce(set[int], {1}, "here")
    assert describe(Any) == "any value"


@pytest.mark.parametrize("value", [object(), print, {1: 2}, math.inf, b"bytes", {"a", "b"}])
def test_free_form_is_only_what_json_can_hold(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^kw\.x"):
        free_form({"x": value}, "kw")


def test_free_form_has_a_bottom() -> None:
    deep: list[Any] = []
    deep.append(deep)
    with pytest.raises(ConfigError, match="levels of nesting"):
        free_form(deep, "kw")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(json_values)
def test_free_form_keeps_what_json_can_hold(value: Any) -> None:
    assert free_form(value, "kw") == value
    assert json.loads(json.dumps(dump(value), allow_nan=False)) == value


@dataclass(frozen=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True)
class Outer:
    lambda_: float = 1.0
    inner: Inner = field(default_factory=Inner)
    derived: int = field(default=0, init=False)


def test_fields_of_a_dataclass() -> None:
    given_ = {"lambda": 1, "inner": {"depth": 2.0}}
    assert coerce_fields(Outer, given_, "training") == {"lambda_": 1.0, "inner": Inner(2)}
    assert dump(Outer(inner=Inner(3))) == {"lambda_": 1.0, "inner": {"depth": 3}}
    with pytest.raises(ConfigError, match=r"^training\.inner\.dept: unknown.*'depth'"):
        coerce_fields(Outer, {"inner": {"dept": 2}}, "training")
    with pytest.raises(ConfigError, match=r"^training\.derived: unknown"):
        coerce_fields(Outer, {"derived": 2}, "training")
    with pytest.raises(ConfigError, match="given twice, as 'lambda' and as 'lambda_'"):
        coerce_fields(Outer, {"lambda_": 1, "lambda": 1}, "training")
