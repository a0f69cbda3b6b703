"""The simulator's side of the conversation: arenas here, policies at the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from arena_sim import baselines
from arena_sim.arenas import Arenas, ArenaStep
from arena_sim.returns import Returns
from arena_sim.rules import AGENT1, AGENT2, AGENTS, NUM_ACTIONS
from sim_clients.client import Group, Lanes
from sim_clients.errors import RequestRefused, ServerClosed
from sim_clients.protocol.spaces import Discrete, MultiDiscrete

POLICY = "policy"  # the player that lives at the server
POLL_S = 0.1  # longest time in which a wish to stop goes unnoticed
MAX_REFUSALS = 3  # in a row, before `run` gives up
METRIC_OF = {AGENT1: "new_fields", AGENT2: "collisions"}


class StepClient(Protocol):
    """What the loop needs of a `sim_clients.client.Client`."""

    @property
    def closed_by_server(self) -> bool: ...

    def send_step(self, lanes: dict[str, Lanes], /) -> None: ...

    def receive_actions(self, timeout_s: float | None = None) -> dict[str, np.ndarray] | None: ...


def groups(arenas: Arenas, agent1: str = POLICY, agent2: str = POLICY) -> dict[str, Group]:
    """The groups to declare: one per agent that a policy plays, one lane per arena.

    Raises:
        ValueError: no agent is left to a policy, so that there is nothing to ask a server.
    """
    played = [a for a, player in zip(AGENTS, (agent1, agent2), strict=True) if player == POLICY]
    if not played:
        raise ValueError(
            f"expected at least one agent to be played by a policy, got agent1 '{agent1}' and "
            f"agent2 '{agent2}': python -m arena_sim.baselines plays baselines alone."
        )
    observation = MultiDiscrete([arenas.cells, arenas.cells])
    return {a: Group(observation, Discrete(NUM_ACTIONS), lanes=arenas.num) for a in played}


class ArenaSimulator:
    """Steps the arenas with what the server answers, and reports what came of it.

    Everything a step brought (rewards, endings, final observations, metrics) rides on the next
    request. Drive it with `run`, or by `send` and `receive` in turn where the caller has
    other things to do in between.

    Args:
        client: connected, with the groups that `groups` names.
        agent1, agent2: "policy", or the baseline that plays this agent right here.
        seed: of the baselines.

    Attributes:
        returns: of all episodes that ended, for both agents.
        ticks: steps of all arenas so far.

    Raises:
        ValueError: an unknown baseline, or no policy at all.
    """

    def __init__(
        self,
        client: StepClient,
        arenas: Arenas,
        agent1: str = POLICY,
        agent2: str = POLICY,
        seed: int | None = None,
    ):
        players = {AGENT1: agent1, AGENT2: agent2}
        self._remote = list(groups(arenas, agent1, agent2))
        self._local = {
            agent: baselines.make(name, arenas.width)
            for agent, name in players.items()
            if name != POLICY
        }
        self._client, self._arenas = client, arenas
        self._rng = np.random.default_rng(seed)
        self._obs = arenas.reset()
        self._last: ArenaStep | None = None
        self._asked = False
        self._stopping = False
        self.returns = Returns(arenas.num)
        self.ticks = 0

    def send(self) -> None:
        """Reports the last step and asks for the next actions.

        Raises:
            RuntimeError: the previous request has not been answered yet.
        """
        self._send({agent: self._lanes(agent) for agent in self._remote})

    def receive(self, timeout_s: float | None = None) -> bool:
        """Steps all arenas, once the answer is there.

        Args:
            timeout_s: how long to wait for it; None: for ever.

        Returns:
            Whether the answer came and the arenas were stepped.

        Raises:
            RuntimeError: nothing was asked.
            RequestRefused: the server did not take the request; `send` says the same again.
            SessionRefused, ServerClosed: the client is over.
        """
        if not self._asked:
            raise RuntimeError("nothing was asked: call send() before receive().")
        try:
            answer = self._client.receive_actions(timeout_s)
        except RequestRefused:
            self._asked = False
            raise
        if answer is None:
            return False
        self._asked = False
        actions = {
            agent: self._local[agent](self._obs[agent], self._rng)
            if agent in self._local
            else answer[agent]
            for agent in AGENTS
        }
        self._last = self._arenas.step(actions[AGENT1], actions[AGENT2])
        self._obs = self._last.obs
        self.returns.add(self._last)
        self.ticks += 1
        return True

    def stop(self) -> None:
        """Makes `run` return soon. May be called from a signal handler or another thread."""
        self._stopping = True

    def run(
        self,
        episodes: int | None = None,
        max_seconds: float | None = None,
        *,
        watch: Callable[[Arenas], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Plays until enough episodes ended, time is up, `stop` was called or the server left.

        Closing the client is the caller's.

        Args:
            episodes: over all arenas; reached or passed, as arenas end together. None: no end.
            max_seconds: None: no end.
            watch: called with the arenas after each step.
            clock: seconds, never going back.

        Raises:
            RequestRefused: the server refused the same request several times in a row.
            SessionRefused: it does not want this simulator.
        """
        refusals = 0
        deadline = np.inf if max_seconds is None else clock() + max_seconds

        def over() -> bool:
            return self._stopping or self._client.closed_by_server or clock() >= deadline

        try:
            while not over():
                if not self._asked:
                    self.send()
                try:
                    stepped = self.receive(POLL_S)
                except RequestRefused:
                    # The server's own trouble may pass; a fault in what we say will not.
                    refusals += 1
                    if refusals == MAX_REFUSALS:
                        raise
                    continue
                if not stepped:
                    continue
                refusals = 0
                if watch is not None:
                    watch(self._arenas)
                if episodes is not None and self.returns.episodes >= episodes:
                    self._leave(over)
                    return
        except ServerClosed:
            return  # an ending like the others: there is nobody left to report to

    def _leave(self, over: Callable[[], bool]) -> None:
        """Reports the last endings without asking for actions, and waits for the receipt."""
        self._send({agent: self._lanes(agent, leaving=True) for agent in self._remote})
        while not over() and self._client.receive_actions(POLL_S) is None:
            pass

    def _send(self, lanes: dict[str, Lanes]) -> None:
        if self._asked:
            raise RuntimeError("the last request is not answered yet: call receive() first.")
        self._client.send_step(lanes)
        self._asked = True

    def _lanes(self, agent: str, leaving: bool = False) -> Lanes:
        last = self._last
        if last is None:
            return Lanes(obs=self._obs[agent])
        name = METRIC_OF[agent]
        values = zip(np.flatnonzero(last.truncated).tolist(), last.metrics[name], strict=True)
        return Lanes(
            # A lane that leaves does not begin what it will not play.
            obs=last.final_obs[agent] if leaving else last.obs[agent],
            rewards=last.rewards[agent],
            truncated=last.truncated,
            final_obs=last.final_obs[agent],
            leaving=np.ones(self._arenas.num, np.bool_) if leaving else None,
            metrics={row: {name: float(value)} for row, value in values},
        )
