"""What a simulator says in one step: groups, rows, and the columns they travel in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sim_clients.layout import Layout
from sim_clients.protocol import Flag


@dataclass(frozen=True)
class Group:
    """Agents of this simulator that share a policy and spaces.

    Attributes:
        observation_space, action_space: of `sim_clients.protocol`, or Gymnasium's.
        lanes: how many of them there can be at once.
        mask: every step carries an action mask.
    """

    observation_space: Any
    action_space: Any
    lanes: int = 1
    mask: bool = False


class Rows(NamedTuple):
    """Values for some rows of a step only, for `final_obs` and `executed`.

    Shapes: `rows` is int[k], positions in the step; each leaf of `values` is `[k, *shape]`.
    """

    rows: Any
    values: Any


@dataclass(slots=True)
class Lanes:
    """One group's part of a step: n rows, one per lane that speaks.

    Shapes: leaves of `obs` and of a full `final_obs` or `executed` are `[n, *shape]`; `mask` is
    `[n, mask_width]`; all others are `[n]`.

    Attributes:
        obs: observations.
        rewards: for each lane's previous action.
        terminated, truncated: the previous action ended the episode.
        final_obs: the true last observation of truncated rows whose `obs` begins the next episode.
        first: `obs` begins an episode; None: wherever no episode runs or one just ended.
        leaving: no action wanted, the lane goes idle; `obs` is its final observation.
        lanes: which lanes these rows are; None: all of them, in order.
        mask: 1 where an option is allowed.
        executed: the actions really executed since, where they are not those that were sent.
        metrics: {row: {name: number}}, of the episodes that end in these rows.
    """

    obs: Any
    rewards: Any = None
    terminated: Any = None
    truncated: Any = None
    final_obs: Any = None
    first: Any = None
    leaving: Any = None
    lanes: Any = None
    mask: Any = None
    executed: Any = None
    metrics: Mapping[int, Mapping[str, float]] | None = None


class Columns:
    """One group's rows on their way to the wire.

    Attributes:
        ids: the lanes, or None for all.
        n: rows.
        pieces: their msgpack, to be joined at once: some are the caller's own arrays.
        open_after: which of the lanes have an episode after this step; None: all of them.
        layout: of these rows, and of the actions that answer them.
    """

    __slots__ = ("ids", "layout", "n", "open_after", "pieces")

    def __init__(
        self,
        ids: np.ndarray | None,
        layout: Layout,
        pieces: list[Any],
        open_after: np.ndarray | None,
    ):
        self.ids = ids
        self.n = layout.n
        self.layout = layout
        self.pieces = pieces
        self.open_after = open_after


def reintroduced(group: list[Any]) -> list[Any]:
    """A group's part of STEP, as msgpack has it, for a server that saw nothing of what came
    before: no endings, no previous action."""
    lanes, flag_bytes, rewards, observations, extras = group
    flags = np.frombuffer(flag_bytes, np.uint8)
    first = flags & Flag.FIRST
    changed = first | (flags & Flag.LEAVING) | np.where(first, 0, Flag.CONTINUED)
    if extras is not None:
        ended = flags & Flag.ENDED
        kept = {key: value for key, value in extras.items() if key == "mask"}
        metrics = [entry for entry in extras.get("metrics", ()) if not ended[entry[0]]]
        if metrics:
            kept["metrics"] = metrics
        extras = kept or None
    return [lanes, changed.astype(np.uint8).tobytes(), rewards, observations, extras]
