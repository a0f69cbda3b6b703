"""PettingZoo environments as a stream of rows: who has something to say, and what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Agent = Any
"""An agent's name, of whatever type the environment uses."""


@dataclass
class AgentRow:
    """What one agent has to say."""

    obs: Any
    info: Any
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    final_obs: Any = None
    begins: bool = False
    leaving: bool = False

    def begin_again(self, obs: Any, info: Any) -> None:
        """The lane's next episode starts in the row that ends this one."""
        self.final_obs, self.obs, self.info = self.obs, obs, info
        self.begins, self.leaving = True, False


class ParallelDriver:
    """One environment in which all agents act at once."""

    def __init__(self, env: Any, seed: int | None):
        self.env = env
        self.total = 0.0
        self._seed = seed
        self._said: dict[Agent, AgentRow] = {}
        self._over = True

    def rows(self) -> dict[Agent, AgentRow]:
        rows, self._said = self._said, {}
        if self._over:
            observations, infos = self.env.reset(seed=self._seed)
            self._seed, self._over, self.total = None, False, 0.0
            for agent, obs in observations.items():
                if agent in rows:
                    rows[agent].begin_again(obs, infos.get(agent))
                else:
                    rows[agent] = AgentRow(obs, infos.get(agent), begins=True)
            for agent in rows.keys() - observations.keys():
                rows[agent].leaving = True
        return rows

    def act(self, actions: dict[Agent, Any]) -> bool:
        """Steps. True where that ended the environment's episode."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        for agent, obs in observations.items():
            begins = agent not in actions
            ended = bool(terminated.get(agent)), bool(truncated.get(agent))
            self._said[agent] = AgentRow(
                obs,
                infos.get(agent),
                float(rewards.get(agent, 0.0)),
                # An agent that came and went without acting has nothing that could end.
                ended[0] and not begins,
                ended[1] and not ended[0] and not begins,
                begins=begins,
                leaving=any(ended),
            )
        self.total += float(sum(rewards.values()))
        self._over = not self.env.agents
        return self._over

    def last_rows(self) -> dict[Agent, AgentRow]:
        """What is left to say where nobody acts any more."""
        rows, self._said, self._over = self._said, {}, True
        for row in rows.values():
            row.leaving = True
        return {agent: row for agent, row in rows.items() if not row.begins}


class TurnDriver:
    """One environment in which one agent acts at a time; rewards add up between its turns."""

    def __init__(self, env: Any, seed: int | None):
        self.env = env
        self.total = 0.0
        self._seed = seed
        self._seen: set[Agent] = set()  # agents with an episode
        self._ended: dict[Agent, AgentRow] = {}  # not yet said
        self._over = True

    def rows(self) -> dict[Agent, AgentRow]:
        rows = self._ended_rows()
        while self._over:
            self.env.reset(seed=self._seed)
            self._seed, self._over, self.total = None, False, 0.0
            self._seen.clear()
            self._pass_the_dead()  # none of whom had an episode
            self._over = not self.env.agents
        agent = self.env.agent_selection
        obs, reward, _, _, info = self.env.last()
        if agent in rows:
            rows[agent].begin_again(obs, info)
        else:
            known = agent in self._seen
            rows[agent] = AgentRow(obs, info, float(reward) if known else 0.0, begins=not known)
            self.total += float(reward) if known else 0.0
        self._seen.add(agent)
        return rows

    def act(self, actions: dict[Agent, Any]) -> bool:
        """Takes the turn. True where that ended the environment's episode."""
        (action,) = actions.values()
        self.env.step(action)
        self._ended = self._pass_the_dead()
        self._over = not self.env.agents
        return self._over

    def last_rows(self) -> dict[Agent, AgentRow]:
        """What is left to say where nobody acts any more."""
        rows, self._over = self._ended_rows(), True
        return rows

    def _ended_rows(self) -> dict[Agent, AgentRow]:
        rows, self._ended = self._ended, {}
        return rows

    def _pass_the_dead(self) -> dict[Agent, AgentRow]:
        """Lets agents that have died go; -> the endings of those that had an episode."""
        rows: dict[Agent, AgentRow] = {}
        while self.env.agents:
            agent = self.env.agent_selection
            obs, reward, terminated, truncated, info = self.env.last()
            if not (terminated or truncated):
                break
            if agent in self._seen:
                self._seen.discard(agent)
                cut = bool(truncated) and not terminated
                rows[agent] = AgentRow(obs, info, float(reward), not cut, cut, leaving=True)
                self.total += float(reward)
            self.env.step(None)
        return rows
