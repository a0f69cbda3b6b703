"""The spaces of a group: several agents that the server sees as one lane (docs/GROUPS.md)."""

from __future__ import annotations

from dataclasses import dataclass

from policy_server.errors import UnsupportedSpaceError
from policy_server.types import ActionLayout, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Space, leaves

PARTS = ("agents", "state", "rewards")
"""What a group's observation may consist of."""


@dataclass(frozen=True)
class Member:
    """One agent of a group.

    Attributes:
        observation, action: its own spaces.
        leaves: which of the observation's leaves are its own.
        categories, reals, mask: which columns of the group's actions and of its mask are.
    """

    name: str
    observation: Space
    action: Space
    leaves: slice
    categories: slice
    reals: slice
    mask: slice


@dataclass(frozen=True)
class GroupSpaces:
    """Who is in a group, and what is whose.

    Attributes:
        state: which leaves of the observation are the state of the whole, which no agent sees;
            empty where there is none.
        rewards: the leaf that tells what each agent got for the step before, or None.
    """

    members: tuple[Member, ...]
    state: slice
    rewards: int | None

    @classmethod
    def of(cls, spaces: PolicySpaces) -> GroupSpaces:
        """Raises:
        UnsupportedSpaceError: they are not those of a group.
        """
        observation, action = spaces.observation, spaces.action
        agents = _agents(observation)
        if agents is None or not isinstance(action, Dict) or [*action.spaces] != [*agents.spaces]:
            raise _no_group(
                'a Dict "agents" of each agent\'s observation, and a Dict of actions with the same '
                f"names in the same order, got {observation} and {action}"
            )
        assert isinstance(observation, Dict)
        at: dict[str, slice] = {}
        start = 0
        for name, part in observation.spaces.items():
            at[name] = slice(start, start + len(leaves(part)))
            start = at[name].stop
        members: list[Member] = []
        leaf, k, d, w = at["agents"].start, 0, 0, 0
        for name, own in agents.spaces.items():
            layout = ActionLayout(action.spaces[name])
            after = (leaf + len(leaves(own)), k + layout.categories, d + layout.reals)
            mask = slice(w, w + layout.mask_width)
            columns = (slice(leaf, after[0]), slice(k, after[1]), slice(d, after[2]), mask)
            members.append(Member(name, own, action.spaces[name], *columns))
            (leaf, k, d), w = after, mask.stop
        if "rewards" in at:
            told = observation.spaces["rewards"]
            if not isinstance(told, Box) or told.shape != (len(members),):
                raise _no_group(
                    f'"rewards" as a Box of shape ({len(members)},), a number for each agent, got '
                    f"{told}"
                )
        rewards = at["rewards"].start if "rewards" in at else None
        return cls(tuple(members), at.get("state", slice(start, start)), rewards)

    @property
    def alike(self) -> bool:
        """All agents have the same spaces."""
        first = self.members[0]
        return all(
            one.observation == first.observation and one.action == first.action
            for one in self.members
        )


def _agents(observation: Space) -> Dict | None:
    """The part of the agents; None: it is no group's observation."""
    if not isinstance(observation, Dict) or not set(observation.spaces) <= set(PARTS):
        return None
    agents = observation.spaces.get("agents")
    return agents if isinstance(agents, Dict) and len(agents.spaces) > 0 else None


def _no_group(expected: str) -> UnsupportedSpaceError:
    return UnsupportedSpaceError(
        f"expected the spaces of a group: {expected}: `sim_clients.groups.GroupEnv` makes a "
        "group of the agents of a PettingZoo environment."
    )
