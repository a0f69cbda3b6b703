"""What is whose in the spaces of a group, and what is no group."""

from __future__ import annotations

import pytest

from policy_server.algorithms.groups import GroupSpaces
from policy_server.algorithms.supports import Supports
from policy_server.errors import UnsupportedSpaceError
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple

EYE, WHEEL, SWITCH = Box(-1, 1, (3,)), Box(-2, 2, (2,)), Discrete(3, start=1)
BOTH = Tuple((Discrete(2), EYE))


def group(
    seen: dict[str, Space], done: dict[str, Space], *, first: bool = True, **more: Space
) -> PolicySpaces:
    """Of agents that see and do this; `more` stands before them or behind."""
    agents = {"agents": Dict(seen)}
    return PolicySpaces(Dict({**agents, **more} if first else {**more, **agents}), Dict(done))


@pytest.mark.parametrize("first", [True, False])
def test_what_is_whose(first: bool) -> None:
    parts = Dict({"do": MultiDiscrete([2, 5]), "go": WHEEL})
    spaces = group(
        {"b": BOTH, "a": EYE}, {"b": parts, "a": SWITCH}, first=first,
        state=Tuple((EYE, EYE)), rewards=Box(-9, 9, (2,)),
    )  # fmt: skip
    found = GroupSpaces.of(spaces)
    before = 0 if first else 3
    b, a = found.members
    assert (b.name, b.observation, b.action) == ("b", BOTH, parts)
    assert (b.leaves, b.categories, b.reals, b.mask) == (
        slice(before, before + 2), slice(0, 2), slice(0, 2), slice(0, 7),
    )  # fmt: skip
    assert (a.name, a.observation, a.action) == ("a", EYE, SWITCH)
    assert (a.leaves, a.categories, a.reals, a.mask) == (
        slice(before + 2, before + 3), slice(2, 3), slice(2, 2), slice(7, 10),
    )  # fmt: skip
    assert found.state == (slice(3, 5) if first else slice(0, 2))
    assert found.rewards == (5 if first else 2)
    assert not found.alike


def test_nothing_but_agents() -> None:
    found = GroupSpaces.of(group({"a": EYE, "b": EYE}, {"a": SWITCH, "b": SWITCH}))
    assert found.state == slice(2, 2)
    assert found.rewards is None
    assert found.alike
    assert not GroupSpaces.of(group({"a": EYE, "b": EYE}, {"a": SWITCH, "b": Discrete(3)})).alike
    assert not GroupSpaces.of(group({"a": EYE, "b": BOTH}, {"a": SWITCH, "b": SWITCH})).alike


TWO = {"a": EYE, "b": EYE}
NO_GROUPS = {
    "one agent": PolicySpaces(EYE, SWITCH),
    "another part": group(TWO, {"a": SWITCH, "b": SWITCH}, mood=EYE),
    "no agents": group({}, {}),
    "one action for both": PolicySpaces(Dict({"agents": Dict(TWO)}), SWITCH),
    "another order": group(TWO, {"b": SWITCH, "a": SWITCH}),
    "who is missing": group(TWO, {"a": SWITCH}),
    "agents without names": PolicySpaces(
        Dict({"agents": Tuple((EYE, EYE))}), Dict({"a": SWITCH, "b": SWITCH})
    ),
    "too few rewards": group(TWO, {"a": SWITCH, "b": SWITCH}, rewards=Box(-9, 9, (1,))),
}


@pytest.mark.parametrize("name", NO_GROUPS)
def test_no_group(name: str) -> None:
    with pytest.raises(UnsupportedSpaceError, match="expected the spaces of a group"):
        GroupSpaces.of(NO_GROUPS[name])


CHOICES = Supports(several=False, continuous=False, hybrid=False, groups=True)


def test_who_is_for_groups_takes_nobody_else() -> None:
    two = group(TWO, {"a": SWITCH, "b": SWITCH})
    assert CHOICES.fits(two)
    assert not CHOICES.fits(PolicySpaces(EYE, SWITCH))
    assert not CHOICES.any_space
    with pytest.raises(UnsupportedSpaceError, match="Some: expected the spaces of a group"):
        CHOICES.check_spaces("Some", PolicySpaces(EYE, SWITCH))
    assert not Supports(several=False).fits(two), "taken as one agent it makes several choices"


def test_each_agent_of_a_group_is_looked_at() -> None:
    mixed = group(TWO, {"a": SWITCH, "b": WHEEL})
    with pytest.raises(
        UnsupportedSpaceError, match=r"Some, agent 'b': expected an action space of"
    ):
        CHOICES.check_spaces("Some", mixed)
    either = Supports(hybrid=False, groups=True)
    assert either.fits(group(TWO, {"a": WHEEL, "b": WHEEL}))
    with pytest.raises(UnsupportedSpaceError, match="all choose or all give numbers"):
        either.check_spaces("Some", mixed)
    assert Supports(groups=True).fits(mixed)
    with pytest.raises(UnsupportedSpaceError, match="'b': expected a Box with finite bounds"):
        Supports(bounded=True, groups=True).check_spaces(
            "Some", group(TWO, {"a": WHEEL, "b": Box(-float("inf"), 1, (1,))})
        )
