"""Runs PettingZoo environments, parallel or turn-based, as a simulator of a policy server.

    python -m sim_clients.pettingzoo pettingzoo.butterfly.pistonball_v6 --num-envs 4

Each agent name is a group of its own unless `group_by` says which agents share one; agents that
die leave their lane, and come back to it with the next episode.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sim_clients.agent_rows import Agent, AgentRow, ParallelDriver, TurnDriver
from sim_clients.client import Client
from sim_clients.columns import Group, Lanes
from sim_clients.command import UsageError, check_count, make_client, parser, run_politely
from sim_clients.errors import InvalidStep
from sim_clients.protocol import spaces
from sim_clients.rows import RowStore, action_row, flat_mask
from sim_clients.runner import FAREWELL_S, Runner, Summary, in_halves
from sim_clients.space_conversion import as_space

GroupBy = Mapping[Any, str] | Callable[[Any], str]


class _Team:
    """One group: its spaces, and what its agents' observations look like on the wire."""

    def __init__(self, name: str, env: Any, agent: Agent, mask: bool):
        self.name = name
        space = env.observation_space(agent)
        parts = getattr(space, "spaces", None)
        # PettingZoo's board games put the mask beside the observation.
        self._mask_inside = mask and isinstance(parts, Mapping) and "action_mask" in parts
        self._unwrap = self._mask_inside and set(parts or ()) == {"observation", "action_mask"}
        if self._unwrap:
            self.observation_space = as_space(parts["observation"])  # type: ignore[index]
        elif self._mask_inside:
            self.observation_space = spaces.Dict(
                {k: as_space(s) for k, s in parts.items() if k != "action_mask"}  # type: ignore[union-attr]
            )
        else:
            self.observation_space = as_space(space)
        self.action_space = as_space(env.action_space(agent))
        self.mask_width = spaces.mask_width(self.action_space) if mask else 0

    def view(self, obs: Any) -> Any:
        """The observation without its mask."""
        if self._unwrap:
            return obs["observation"]
        if self._mask_inside:
            return {key: value for key, value in obs.items() if key != "action_mask"}
        return obs

    def mask(self, row: AgentRow, obs: Any) -> np.ndarray:
        if row.leaving:
            return np.ones(self.mask_width, np.uint8)
        return flat_mask(obs if self._mask_inside else row.info, self.mask_width)

    def lanes(self, rows: list[tuple[int, AgentRow]]) -> Lanes:
        """One step's columns of (lane, row)."""
        n = len(rows)
        obs, final = RowStore(self.observation_space, n), RowStore(self.observation_space, n)
        for i, (_, row) in enumerate(rows):
            obs.write(i, self.view(row.obs))
            if row.final_obs is not None:
                final.write(i, self.view(row.final_obs))
        return Lanes(
            obs.value,
            [row.reward for _, row in rows],
            [row.terminated for _, row in rows],
            [row.truncated for _, row in rows],
            final.value,
            first=[row.begins for _, row in rows],
            leaving=[row.leaving for _, row in rows],
            lanes=[lane for lane, _ in rows],
            mask=np.stack([self.mask(row, row.obs) for _, row in rows])
            if self.mask_width
            else None,
        )


class PettingZooSimulator(Runner):
    """Environments of one kind, stepped in this process.

    Args:
        client: a `Client`, or a function that makes one for the groups given.
        envs: parallel or turn-based environments; all with the same agents and spaces.
        seed: environment i is first reset with seed + i; None: unseeded.
        group_by: agent name -> group name, as a dict or a function; None: the name itself.
        action_mask: the environments give masks, in `observation["action_mask"]` or
            `info["action_mask"]`.
    """

    def __init__(
        self,
        client: Client | Callable[[dict[str, Group]], Client],
        envs: Sequence[Any],
        seed: int | None = None,
        *,
        group_by: GroupBy | None = None,
        action_mask: bool = False,
    ):
        if not envs:
            raise ValueError("envs: expected at least one environment, got none.")
        agents = list(envs[0].possible_agents)
        self._teams: dict[str, _Team] = {}
        members: dict[str, list[Agent]] = {}
        for agent in agents:
            name = _group_of(agent, group_by)
            team = _Team(name, envs[0], agent, action_mask)
            first = self._teams.setdefault(name, team)
            same = team.observation_space == first.observation_space
            if not same or team.action_space != first.action_space:
                raise ValueError(
                    f"group '{name}': expected agents with the same spaces, got others in "
                    f"'{agent}': put it into another group."
                )
            members.setdefault(name, []).append(agent)
        self._seats: dict[tuple[int, Agent], tuple[str, int]] = {}
        for name, named in members.items():
            for i, env in enumerate(envs):
                if list(env.possible_agents) != agents:
                    raise ValueError(f"envs: expected the same agents in all, got others in {i}.")
                for j, agent in enumerate(named):
                    self._seats[i, agent] = (name, i * len(named) + j)
        groups = {
            name: Group(
                team.observation_space,
                team.action_space,
                len(envs) * len(members[name]),
                action_mask,
            )
            for name, team in self._teams.items()
        }
        super().__init__(client if isinstance(client, Client) else client(groups), envs)
        self._drivers = [
            (TurnDriver if hasattr(env, "last") else ParallelDriver)(
                env, None if seed is None else seed + i
            )
            for i, env in enumerate(envs)
        ]
        # (environment, agent, group, row) of every action awaited; None: nothing was sent.
        self._awaited: list[tuple[int, Agent, str, int]] | None = None

    def send(self) -> None:
        if self._awaited is None:
            self._say([driver.rows() for driver in self._drivers])

    def receive(self, timeout_s: float | None = None) -> bool:
        actions = self.client.receive_actions(timeout_s)
        if actions is None:
            return False
        assert self._awaited is not None
        chosen: list[dict[Agent, Any]] = [{} for _ in self._drivers]
        for i, agent, name, row in self._awaited:
            space = self._teams[name].action_space
            action = action_row(space, actions[name], row)
            chosen[i][agent] = int(action) if isinstance(space, spaces.Discrete) else action
        self.steps += len(self._awaited)
        self._awaited = None
        for driver, taken in zip(self._drivers, chosen, strict=True):
            if driver.act(taken):
                self.count_episode(driver.total)
        return True

    def finish(self) -> None:
        if self._awaited is None and self._say([driver.last_rows() for driver in self._drivers]):
            self.client.receive_actions(FAREWELL_S)
            self._awaited = None

    def _say(self, told: list[dict[Agent, AgentRow]]) -> bool:
        rows: dict[str, list[tuple[int, AgentRow]]] = {}
        awaited = []
        for i, agents in enumerate(told):
            for agent, row in agents.items():
                if (i, agent) not in self._seats:
                    raise InvalidStep(
                        f"expected agents among possible_agents, got '{agent}': lanes are declared "
                        "once, so name every agent that may ever come."
                    )
                name, lane = self._seats[i, agent]
                mine = rows.setdefault(name, [])
                if not row.leaving:
                    awaited.append((i, agent, name, len(mine)))
                mine.append((lane, row))
        if not rows:
            return False
        self.client.send_step({name: self._teams[name].lanes(part) for name, part in rows.items()})
        self._awaited = awaited
        return True


def _group_of(agent: Agent, group_by: GroupBy | None) -> str:
    if group_by is None:
        return str(agent)
    if isinstance(group_by, Mapping):
        if agent not in group_by:
            raise ValueError(f"group_by: expected a group for every agent, got none for '{agent}'.")
        return group_by[agent]
    return group_by(agent)


def make_environments(env: Any, num_envs: int, env_kwargs: dict[str, Any] | None) -> list[Any]:
    """Environments from "module", "module:function", a module, a function, or one that exists.

    Raises:
        UsageError: there is no such module or function, or it fails.
    """
    check_count("num_envs", num_envs)
    kwargs = env_kwargs or {}
    if hasattr(env, "possible_agents") and hasattr(env, "step"):
        if num_envs != 1 or kwargs:
            raise UsageError(
                "expected a module or a function that makes environments where there are several "
                "or arguments, got an environment that exists."
            )
        return [env]
    make, name = _maker(env)
    try:
        return [make(**kwargs) for _ in range(num_envs)]
    except Exception as error:
        raise UsageError(f"environment '{name}' cannot be made: {error}") from error


def _maker(env: Any) -> tuple[Callable[..., Any], str]:
    if callable(env):
        return env, getattr(env, "__name__", repr(env))
    name, function = str(getattr(env, "__name__", env)), ""
    if isinstance(env, str):
        path, _, function = env.partition(":")
        try:
            env = importlib.import_module(path)
        except ImportError as error:
            raise UsageError(f"environment '{name}' cannot be imported: {error}") from None
    names = [function] if function else ["parallel_env", "env"]
    for candidate in names:
        if hasattr(env, candidate):
            return getattr(env, candidate), name
    raise UsageError(f"environment '{name}': expected a function {' or '.join(names)}, got none.")


def run_pettingzoo(
    env_or_module: Any,
    address: str,
    num_envs: int = 1,
    env_kwargs: dict[str, Any] | None = None,
    seed: int | None = None,
    identity: str | None = None,
    episodes: int | None = None,
    steps: int | None = None,
    max_seconds: float | None = None,
    *,
    group_by: GroupBy | None = None,
    action_mask: bool = False,
    token: str | None = None,
    pipelined: bool = False,
) -> Summary:
    """Runs environments against the server at `address` until a limit is reached (default: never).

    Args:
        env_or_module: "module" or "module:function", a module with `parallel_env` or `env`, a
            function that makes an environment, or an environment.
        pipelined: half of the environments step while the other half waits for actions.

    Raises:
        UsageError: the environment cannot be made, or its spaces cannot travel.
        ClientError: see `sim_clients.errors`.
    """
    envs = make_environments(env_or_module, num_envs, env_kwargs)

    def make(mine: Sequence[Any], seed: int | None, name: str | None) -> Runner:
        def connect(groups: dict[str, Group]) -> Client:
            return make_client(address, groups, identity=name, token=token)

        return PettingZooSimulator(connect, mine, seed, group_by=group_by, action_mask=action_mask)

    try:
        simulator = (
            in_halves(make, envs, seed, identity) if pipelined else make(envs, seed, identity)
        )
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    with simulator:
        return simulator.run(episodes=episodes, steps=steps, max_seconds=max_seconds)


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    options = parser("sim_clients.pettingzoo", __doc__.splitlines()[0], "MODULE[:FUNCTION]")
    options.add_argument("--shared-group", metavar="NAME", help="all agents form this one group")
    given = options.parse_args(arguments)
    shared = given.shared_group
    return run_politely(
        lambda: run_pettingzoo(
            given.env, given.address, given.num_envs, given.env_kwargs, given.seed,
            given.identity, given.episodes, given.steps,
            group_by=None if shared is None else lambda agent: shared,
            action_mask=given.action_mask, token=given.token, pipelined=given.pipelined,
        )
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
