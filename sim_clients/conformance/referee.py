"""Judges a STEP by the rules of `docs/PROTOCOL.md`, row by row: slow, obvious, strict."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim_clients.protocol import ErrorCode, Flag, GroupSpec, ProtocolError, Step, StepGroup, spaces
from sim_clients.protocol.limits import NUMBER_LIMIT, REWARD_LIMIT, bounded, executed_range


class Referee:
    """Follows one session's lanes.

    Attributes:
        episodes: (group, lane, ending, length, return) of every finished episode; the ending is
            "terminated", "truncated" or "abandoned"; the return counts seen rewards only.
    """

    def __init__(self, groups: tuple[GroupSpec, ...]):
        self.groups = groups
        self.episodes: list[tuple[str, int, str, int, float]] = []
        self._running: dict[tuple[str, int], list[float]] = {}  # rewards so far

    def judge(self, step: Step) -> None:
        """Takes the step into account, or none of it.

        Raises:
            ProtocolError: naming group and row.
        """
        if len(step.groups) != len(self.groups):
            raise self._bad(ErrorCode.MALFORMED, step, f"expected {len(self.groups)} groups")
        moves: list[tuple[str, int, int, float]] = []
        for spec, group in zip(self.groups, step.groups, strict=True):
            if group is not None:
                moves.extend(self._judge_group(step, spec, group))
        for name, lane, flags, reward in moves:
            self._move((name, lane), flags, reward)

    def rows(self, spec: GroupSpec, group: StepGroup) -> int:
        """n of this group."""
        return spec.lanes if group.lanes is None else len(group.lanes) // 4

    def _judge_group(
        self, step: Step, spec: GroupSpec, group: StepGroup
    ) -> list[tuple[str, int, int, float]]:
        n = self.rows(spec, group)
        if group.lanes is None:
            lanes = list(range(n))
        else:
            lanes = np.frombuffer(group.lanes, "<u4").tolist()
        if not lanes or len(set(lanes)) != n or max(lanes) >= spec.lanes:
            raise self._bad(ErrorCode.BAD_LANE, step, f"{spec.name}: lanes {lanes}")
        if len(group.flags) != n:
            raise self._bad(ErrorCode.BAD_FLAGS, step, f"{spec.name}: {len(group.flags)} flags")
        if len(group.rewards) != 4 * n:
            raise self._bad(ErrorCode.BAD_REWARD, step, f"{spec.name}: {len(group.rewards)} bytes")
        rewards = np.frombuffer(group.rewards, "<f4").tolist()
        self._columns(step, spec, "observations", spec.observation_space, group.observations, n)
        extras = group.extras or {}
        if spec.mask != ("mask" in extras):
            raise self._bad(ErrorCode.BAD_MASK, step, f"{spec.name}: mask declared: {spec.mask}")
        if spec.mask and len(extras["mask"]) != n * spaces.mask_width(spec.action_space):
            raise self._bad(ErrorCode.BAD_MASK, step, f"{spec.name}: {len(extras['mask'])} bytes")
        final = self._part(step, spec, extras, "final_obs", spec.observation_space, n)
        acted = self._part(step, spec, extras, "action", spec.action_space, n)
        moves = []
        for row, (lane, flags, reward) in enumerate(zip(lanes, group.flags, rewards, strict=True)):
            where = f"{spec.name} row {row} (lane {lane}, flags {flags})"
            problem = flag_problem(flags, (spec.name, lane) in self._running)
            if problem:
                raise self._bad(ErrorCode.BAD_FLAGS, step, f"{where}: {problem}")
            cut = flags & Flag.TRUNCATED and flags & Flag.FIRST
            if cut and row not in final:
                raise self._bad(ErrorCode.BAD_OBSERVATION, step, f"{where}: final_obs is missing")
            if row in final and not flags & Flag.ENDED:
                raise self._bad(ErrorCode.BAD_OBSERVATION, step, f"{where}: final_obs of no ending")
            speaks = not flags & (Flag.FIRST | Flag.CONTINUED) or flags & Flag.ENDED
            if row in acted and not speaks:
                raise self._bad(ErrorCode.BAD_ACTION, step, f"{where}: there is no previous action")
            if speaks and not abs(reward) <= REWARD_LIMIT:
                raise self._bad(ErrorCode.BAD_REWARD, step, f"{where}: {reward}")
            moves.append((spec.name, lane, flags, reward))
        return moves

    def _part(
        self,
        step: Step,
        spec: GroupSpec,
        extras: dict[str, Any],
        key: str,
        space: spaces.Space,
        n: int,
    ) -> set[int]:
        if key not in extras:
            return set()
        rows = np.frombuffer(extras[key][0], "<u4").tolist()
        if len(set(rows)) != len(rows) or any(row >= n for row in rows):
            raise self._bad(ErrorCode.MALFORMED, step, f"{spec.name}: {key} rows {rows}")
        self._columns(step, spec, key, space, extras[key][1], len(rows))
        return set(rows)

    def _columns(
        self,
        step: Step,
        spec: GroupSpec,
        what: str,
        space: spaces.Space,
        columns: list[bytes],
        n: int,
    ) -> None:
        code = ErrorCode.BAD_ACTION if what == "action" else ErrorCode.BAD_OBSERVATION
        leaves = spaces.leaves(space)
        if len(columns) != len(leaves):
            raise self._bad(code, step, f"{spec.name}: {len(columns)} columns of {what}")
        for column, (path, leaf) in zip(columns, leaves, strict=True):
            if len(column) != n * leaf.nbytes:
                raise self._bad(
                    code, step, f"{spec.name}{path}: {len(column)} bytes of {what} for {n} rows"
                )
            values = np.frombuffer(column, leaf.dtype).reshape((n, *leaf.shape))
            problem = value_problem(values, leaf, what)
            if problem:
                raise self._bad(code, step, f"{spec.name}{path}: {problem}")

    def _move(self, lane: tuple[str, int], flags: int, reward: float) -> None:
        rewards = self._running.get(lane)
        if rewards is not None:
            if not flags & (Flag.FIRST | Flag.CONTINUED) or flags & Flag.ENDED:
                rewards.append(reward)
            if flags & Flag.ENDED:
                self._end(lane, "terminated" if flags & Flag.TERMINATED else "truncated")
            elif flags & (Flag.FIRST | Flag.LEAVING):
                self._end(lane, "abandoned")
        if flags & Flag.FIRST or flags & Flag.CONTINUED:
            self._running.setdefault(lane, [])
        if flags & Flag.LEAVING and lane in self._running:
            self._end(lane, "abandoned")

    def _end(self, lane: tuple[str, int], ending: str) -> None:
        rewards = self._running.pop(lane)
        self.episodes.append((*lane, ending, len(rewards), float(np.sum(rewards))))

    def _bad(self, code: str, step: Step, text: str) -> ProtocolError:
        return ProtocolError(code, text[:1000], seq=step.seq)


def value_problem(values: np.ndarray, leaf: spaces.Leaf, what: str) -> str | None:
    """Why a column `[n, *shape]` cannot be; None: it can. Only what is in a Box, and only actions,
    are held against bounds."""
    if not isinstance(leaf, spaces.Box):
        start = getattr(leaf, "start", 0)
        options = spaces.choices(leaf).reshape(leaf.shape)
        fine = (values >= start) & (values < start + options)
        return None if fine.all() else f"a value of {what} that is no option"
    if what == "action" and bounded(leaf).all():
        low, high = executed_range(leaf)
        fine = (values >= low) & (values <= high)
        return None if fine.all() else f"{what} outside the bounds of its box, or NaN"
    fine = np.abs(values.astype(float)) <= NUMBER_LIMIT
    text = f"NaN or infinity in {what}, or beyond +-{NUMBER_LIMIT:.0e}"
    return None if fine.all() else text


def flag_problem(flags: int, running: bool) -> str | None:
    """What is wrong with a row's flags, given whether its lane has an episode; None: nothing."""
    first, continued = flags & Flag.FIRST, flags & Flag.CONTINUED
    leaving, ended = flags & Flag.LEAVING, flags & Flag.ENDED
    if flags & ~Flag.ALL:
        return "unknown bits"
    if ended == Flag.ENDED:
        return "terminated and truncated at once"
    if continued and (first or ended):
        return "CONTINUED beside FIRST or an ending"
    if ended and not running:
        return "an ending of no episode"
    if ended and first and leaving:
        return "an ending with both FIRST and LEAVING"
    if ended and not first and not leaving:
        return "an ending without FIRST or LEAVING"
    if not running and not first and not continued:
        return "no episode runs: FIRST or CONTINUED is missing"
    return None
