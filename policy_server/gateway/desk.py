"""One policy's place at the gateway: its lanes, its steps, its batches.

A tick has four verbs:
    look    validated columns -> what the policy sees (preprocessing)
    settle  outcomes of the previous actions: rewards, endings, new episodes
    act     one forward pass for all rows -> actions
    begin   the steps whose actions went out
Where episodes end or begin, or a lane needs a new unroll (`wants`), `settle` comes before `act`,
and a request that must wait for the learner stops between the two. In every other tick the
replies leave first and `settle` comes with `begin`.

Lives on the gateway's thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from policy_server.acting import CLEAN
from policy_server.callbacks import Callbacks
from policy_server.config import CollectionConfig
from policy_server.gateway.checks import ColumnChecks
from policy_server.gateway.columns import ColumnReader, Columns
from policy_server.gateway.evaluation import Evaluation
from policy_server.gateway.interfaces import LearnerHandle, Served
from policy_server.gateway.ledger import EpisodeLedger
from policy_server.gateway.told_rewards import ToldRewards
from policy_server.gateway.work import Work
from policy_server.rollouts.accounting import Accounts, Drop
from policy_server.rollouts.collector import Collector
from policy_server.rollouts.rows import NONE
from policy_server.rollouts.unrolls import RowLayout, UnrollStore
from policy_server.types import Episode, Leaves, PolicySpaces, PolicyState
from sim_clients.protocol import Flag, GroupSpec
from sim_clients.protocol.spaces import leaves

FULLY_GROWN = 1 << 62
"""Steps of a policy that is not trained."""
LEAST_LOG_PROB = -50.0
"""Of an action that was executed instead of the one sent, where learning takes ratios of
probabilities: one to less would overflow."""


class PolicyDesk:
    """Everything the gateway keeps about one policy.

    Attributes:
        version: of the weights that act; grows by one with each published update.
        updates: of the learner, those before a restart included.
    """

    def __init__(
        self,
        name: str,
        spaces: PolicySpaces,
        served: Served,
        learner: LearnerHandle | None,
        collection: CollectionConfig,
        batch_steps: int,
        callbacks: Callbacks | None = None,
        off_policy: bool = False,
        told_rewards: int | None = None,
    ):
        """`told_rewards`: the leaf of the observation that tells what each agent of a group got."""
        self.name = name
        self.spaces = spaces
        self.served = served
        self.learner = learner
        self.callbacks = callbacks
        self.version = 0
        self.updates = 0
        self.accounts = Accounts()
        self.ledger = EpisodeLedger(name)
        self.evaluation = Evaluation()
        self.reader = ColumnReader(leaves(spaces.observation), served.layout, spaces.mask)
        self.checks = ColumnChecks(self.reader, served.layout)
        self._told = None if told_rewards is None else ToldRewards(told_rewards)
        layout = RowLayout(
            served.columns,
            served.layout.categories,
            served.layout.reals,
            served.layout.mask_width if spaces.mask else 0,
            served.states.size,
        )
        self.store = UnrollStore(layout, batch_steps)
        self.collector = Collector(collection, self.store, self.accounts, batch_steps, off_policy)
        self.episodes: list[Episode] = []
        self.results: list[dict[str, Any]] = []  # what updates reported, without their weights

    # -- seats --------------------------------------------------------------------------------

    def seat(self, spec: GroupSpec, place: str, session: str) -> np.ndarray:
        """Slots for the lanes of a new session's group. int64[lanes]."""
        keys = self.served.lane_keys(self.updates, place, spec.name, lanes=spec.lanes)
        slots = self.ledger.seat(spec.name, session, keys)
        self.store.add_lanes(self.ledger.size)
        self.served.add_lanes(self.ledger.size)
        self.store.pending[slots] = False
        self.collector.lanes = self.ledger.seated
        return slots

    def unseat(self, slots: np.ndarray) -> None:
        """The session is gone: open episodes end as interrupted."""
        self._interrupt(slots)
        for slot in slots[self.ledger.open[slots]].tolist():
            self._end_episode(slot, "interrupted", {})
        self.ledger.unseat(slots)
        self.collector.lanes = self.ledger.seated

    # -- is it right? ---------------------------------------------------------------------------

    def check(self, columns: Columns) -> None:
        """Content of the columns, and whether it fits the lanes' state. Raises RowError."""
        self.checks.check(columns, self.ledger.open, self.ledger.busy)
        if self._told is not None:
            self._told.check(columns)

    # -- look, settle, act, begin ------------------------------------------------------------------

    def look(self, columns: Columns) -> Work:
        """Preprocesses; from here on the rows count as seen."""
        slots, flags = columns.slots, columns.flags
        if columns.quiet:
            obs = self.served.see(columns.observations, slots, flags.view(bool), self.trains)
            return Work(slots, columns, obs, columns.mask, None)
        work = Work(slots, columns, (), columns.mask, None)
        if columns.finals is not None:
            rows, final_columns = columns.finals
            self._keep_finals(work, slots[rows], self.served.peek(final_columns, slots[rows]))
        # Whoever joins in mid-episode has no frames of before either.
        first = (flags & (Flag.FIRST | Flag.CONTINUED)) != 0
        work.obs = self.served.see(columns.observations, slots, first, self.trains)
        leaving = (flags & Flag.LEAVING) != 0
        if leaving.any():
            work.acting = ~leaving
            last = leaving & ((flags & Flag.TRUNCATED) != 0)
            self._keep_finals(work, slots[last], tuple(leaf[last] for leaf in work.obs))
        return work

    @staticmethod
    def _keep_finals(work: Work, slots: np.ndarray, obs: Leaves) -> None:
        for i, slot in enumerate(slots.tolist()):
            work.finals[slot] = tuple(leaf[i].copy() for leaf in obs)

    @property
    def starting(self) -> bool:
        """Its learner is not there yet, and never was: what comes now would only pile up."""
        learner = self.learner
        return learner is not None and self.updates == 0 and not learner.ready

    @property
    def trains(self) -> bool:
        """Is there a learner, and may it have what comes now?"""
        return self.learner is not None and not self.evaluation.exclusive

    def any_wants(self, slots: np.ndarray) -> bool:
        """Whether `wants` may hold for any of them."""
        return self.trains and self.collector.synchronous and self.store.any_wanting(slots)

    def wants(self, slots: np.ndarray) -> np.ndarray:
        """bool[n]: lanes that must be granted a new unroll before they act."""
        if not self.trains or not self.collector.synchronous:
            return np.zeros(len(slots), bool)
        wanting = self.store.wanting(slots)
        if self.evaluation.active:
            wanting &= ~self.ledger.evaluating[slots]
        return wanting

    def settle(self, work: Work) -> None:
        """Outcomes and endings that the rows report. Does nothing the second time."""
        columns = work.columns
        if columns is None:
            return
        work.columns = None
        ledger, slots, flags = self.ledger, columns.slots, columns.flags
        if columns.executed is not None:
            self._replace_executed(columns)
        if columns.quiet:  # by far the most frequent tick: everybody just goes on
            nobody = flags.view(bool)
            ledger.step(slots, columns.rewards)
            self.store.complete(slots, columns.rewards, nobody, nobody, work.obs)
            return
        first = (flags & Flag.FIRST) != 0
        ended = (flags & Flag.ENDED) != 0
        opened = ledger.open[slots]
        missed = opened & (((flags & Flag.CONTINUED) != 0) | (first & ~ended))
        if missed.any():
            self._interrupt(slots[missed])
            ledger.complete[slots[missed]] = False
            for slot in slots[missed & first].tolist():
                self._end_episode(slot, "interrupted", {})
        self._outcomes(work, columns, opened & ~missed)
        if ended.any():
            metrics = dict(columns.metrics)
            for row in np.flatnonzero(ended).tolist():
                ending = "terminated" if flags[row] & Flag.TERMINATED else "truncated"
                self._end_episode(int(slots[row]), ending, metrics.get(row, {}))
        if work.acting is not None:
            self._leave(
                slots[~work.acting],
                flags[~work.acting],
                tuple(leaf[~work.acting] for leaf in work.obs),
            )
            slots, flags = slots[work.acting], flags[work.acting]
            self._start_episodes(slots, flags, tuple(leaf[work.acting] for leaf in work.obs))
        else:
            self._start_episodes(slots, flags, work.obs)

    def _outcomes(self, work: Work, columns: Columns, known: np.ndarray) -> None:
        """Rewards and endings of the rows whose previous action we know."""
        if not known.any():
            return
        for slot, final in work.finals.items():
            self.store.add_final(slot, final)
        slots, flags, obs = columns.slots[known], columns.flags[known], work.obs
        if not known.all():
            obs = tuple(leaf[known] for leaf in obs)
        self.ledger.step(slots, columns.rewards[known])
        terminated = (flags & Flag.TERMINATED) != 0
        truncated = (flags & Flag.TRUNCATED) != 0
        self.store.complete(slots, columns.rewards[known], terminated, truncated, obs)

    def _replace_executed(self, columns: Columns) -> None:
        """Simulators that did something else than they were told: that is what they did."""
        rows, action = columns.executed  # type: ignore[misc]
        slots = columns.slots[rows]
        told = self.store.pending[slots] & (self.store.base[slots] != NONE)
        told &= (columns.flags[rows] & Flag.CONTINUED) == 0
        if not told.any():
            return
        slots = slots[told]
        categories, actions = self.served.layout.from_leaves([column[told] for column in action])
        other = ~self._as_told(slots, categories, actions)
        if not other.any():
            return
        slots, categories, actions = slots[other], categories[other], actions[other]
        reals = self.served.scale.from_simulator(actions)
        obs, mask = self.store.pending_inputs(slots)
        logp = self.served.log_prob(obs, mask, categories, reals, slots)
        self.store.replace_action(slots, categories, reals, logp)
        # What the policy would never do nobody can learn from: a masked option, for one.
        least = -np.inf if self.collector.off_policy else LEAST_LOG_PROB
        self._interrupt(slots[~(logp > least)])

    def _as_told(
        self, slots: np.ndarray, categories: np.ndarray, actions: np.ndarray
    ) -> np.ndarray:
        """bool[n]: it is what the lane was sent, of which more is known than simulators can tell:
        what reals were before they were cut to their bounds."""
        options, reals = self.store.pending_action(slots)
        layout = self.served.layout
        sent = layout.to_leaves(options, self.served.scale.to_simulator(reals))
        return (categories == options).all(axis=1) & layout.same(
            actions, layout.from_leaves(sent)[1]
        )

    def _leave(self, slots: np.ndarray, flags: np.ndarray, obs: Leaves) -> None:
        """Lanes that go idle. What is complete of their unrolls is kept."""
        self.store.finish(slots, obs)
        self.ledger.empty += int(((flags & Flag.FIRST) != 0).sum())
        for slot in slots[self.ledger.open[slots]].tolist():
            self._end_episode(slot, "interrupted", {})

    def _start_episodes(self, slots: np.ndarray, flags: np.ndarray, obs: Leaves) -> None:
        ledger = self.ledger
        rows = np.flatnonzero((flags & Flag.FIRST) != 0)
        first = slots[rows]
        if len(first):
            ledger.start(first, complete=True)
            if self.evaluation.active:
                rows = rows[: self.evaluation.claim(len(first))]
                ledger.evaluating[slots[rows]] = True
                # Their unrolls end with the episode before.
                self.store.finish(slots[rows], tuple(leaf[rows] for leaf in obs))
            if self.callbacks is not None:
                for slot in first.tolist():
                    self.callbacks.on_episode_start(
                        policy=self.name, episode=int(ledger.number[slot])
                    )
        joined = slots[((flags & Flag.CONTINUED) != 0) & ~ledger.open[slots]]
        if len(joined):
            ledger.start(joined, complete=False)
        if self.served.perturbs:
            self._perturb(np.concatenate([first, joined]))

    def _perturb(self, slots: np.ndarray) -> None:
        """Episodes began there: those that are learned from are played with noise."""
        plain = self.ledger.evaluating[slots] | (self.learner is None)
        self.served.start(slots, np.where(plain, CLEAN, self.ledger.number[slots]))

    def _interrupt(self, slots: np.ndarray) -> None:
        self.accounts.drop(Drop.INTERRUPTED, self.store.abandon(slots))

    def _end_episode(self, slot: int, ending: str, metrics: dict[str, float]) -> None:
        episode = self.ledger.end(slot, ending, metrics)
        if not episode.whole and self.learner is not None:
            self.ledger.missed.append(episode.number)
        if episode.evaluation:
            self.evaluation.over(episode)
        self.episodes.append(episode)
        if self.callbacks is not None:
            self.callbacks.on_episode_end(episode=episode)

    def act(self, work: Work) -> list[np.ndarray]:
        """One forward pass. Returns the action columns for the simulators, row for row."""
        slots, ledger = work.slots, self.ledger
        greedy = ledger.evaluating[slots] if self.evaluation.active else None
        policy_steps = self.accounts.accepted
        if self.learner is None:  # then there is nothing to explore for
            policy_steps = FULLY_GROWN
            if self.served.explores:
                greedy = np.ones(len(slots), bool)
        work.choice = self.served.choose(
            work.obs, work.mask, slots, ledger.keys, ledger.draws, greedy, policy_steps
        )
        return self.served.to_simulator(work.choice)

    def begin(self, work: Work) -> None:
        """The steps whose actions went out: recorded, or counted as dropped at once."""
        if self.simple and self._go_on(work):
            return
        self.settle(work)
        choice, slots, obs, mask = work.choice, work.slots, work.obs, work.mask
        categories, reals, logp = choice.categories, choice.reals, choice.logp
        if self.callbacks is not None:
            self.callbacks.on_episode_step(
                policy=self.name, episodes=self.ledger.number[slots], obs=obs
            )
        recorded = work.acting
        if not self.trains or self.evaluation.active:
            acting = np.ones(len(slots), bool) if work.acting is None else work.acting
            recorded = acting & ~self.ledger.evaluating[slots] if self.trains else acting & False
            silent = slots[acting & ~recorded]
            self.store.pending[silent] = True
            self.accounts.accepted += len(silent)
            self.accounts.drop(
                Drop.FROZEN if self.learner is None else Drop.EVALUATION, len(silent)
            )
        if recorded is not None:
            slots, categories, reals, logp = (
                slots[recorded],
                categories[recorded],
                reals[recorded],
                logp[recorded],
            )
            obs = tuple(leaf[recorded] for leaf in obs)
            mask = None if mask is None else mask[recorded]
        if len(slots):
            self.accounts.accepted += len(slots)
            self.store.begin(
                slots, obs, categories, reals, logp, mask, self.version, self.ledger.number,
                self.ledger.length, self.served.states.before,
            )  # fmt: skip

    @property
    def simple(self) -> bool:
        """All steps are recorded, and nobody else asks about them."""
        return self.trains and self.callbacks is None and not self.evaluation.active

    def _go_on(self, work: Work) -> bool:
        """`settle` and `begin` where everybody just goes on."""
        columns, choice = work.columns, work.choice
        if columns is None or not columns.quiet or columns.executed or work.mask is not None:
            return False
        if not self.store.go_on(
            work.slots, columns.rewards, work.obs, choice.categories, choice.reals, choice.logp,
            self.version, self.ledger.number,
        ):  # fmt: skip
            return False
        self.ledger.step(work.slots, columns.rewards)
        self.accounts.accepted += len(work.slots)
        return True

    def hold(self, slots: np.ndarray, obs: Leaves) -> None:
        """Settled rows that must wait before they act: what they see bootstraps their unrolls,
        should these be cut before they go on."""
        self.ledger.busy[slots] = True
        recording = self.store.base[slots] != NONE
        self.store.see(slots[recording], tuple(leaf[recording] for leaf in obs))

    def cut(self, slots: np.ndarray) -> bool:
        """Ends the open unrolls of held lanes, whose neighbours in the same request were refused
        another one: the batch must not wait for lanes that wait for the batch. Nothing is lost.
        True if there were any."""
        recording = slots[self.store.base[slots] != NONE]
        self.store.finish(recording)
        return len(recording) > 0

    # -- learning ---------------------------------------------------------------------------------

    def learn(self, now: float, env_steps: int) -> bool:
        """Hands over a batch if there is one. True if another can be filled meanwhile."""
        if self.learner is None or not (self.trains and self.collector.ready(now)):
            return False
        batch = self.collector.take()
        if self.ledger.missed:
            batch.missed = self.ledger.take_missed()
        self.learner.submit(batch, env_steps)
        return self.collector.collecting

    def publish(self) -> bool:
        """Takes over what the learner has learned. True if there was something."""
        if self.learner is None:
            return False
        result = self.learner.poll()
        if result is None:
            return False
        self.collector.learned(result.steps)
        self.served.load(result.weights)
        self.version += 1
        self.updates += 1
        self.collector.version = self.version
        self.results.append(
            {"updates": result.updates, "steps": result.steps, "metrics": result.metrics}
        )
        return True

    def evaluate(self, episodes: int, exclusive: bool) -> None:
        """Asks for evaluation episodes. Exclusive: what is open is cut and nothing is trained on
        until they are over."""
        if exclusive and self.learner is not None:
            lanes = np.flatnonzero(self.store.base != NONE)
            self.accounts.drop(Drop.EVALUATION, int(self.store.pending[lanes].sum()))
            self.store.finish(lanes)
            self.collector.start_over()
        # Lanes in the middle of an evaluation that is given up count for nothing.
        self.ledger.complete[self.ledger.evaluating] = False
        self.ledger.evaluating[:] = False
        self.evaluation.request(episodes, exclusive)

    # -- state ------------------------------------------------------------------------------------

    def state(self) -> PolicyState:
        """The gateway's share of a checkpoint."""
        return PolicyState(
            self.served.state(),
            {
                "version": self.version,
                "updates": self.updates,
                "episodes": self.ledger.episodes,
                # Those under way will never end, as far as a successor is concerned.
                "missed": [*self.ledger.missed, *self.ledger.number[self.ledger.open].tolist()],
                "accounts": self.accounts.state(),
            },
        )

    def load(self, state: PolicyState) -> None:
        self.served.restore(state.tensors)
        self.version = int(state.data["version"])
        self.updates = int(state.data["updates"])
        self.ledger.episodes = int(state.data["episodes"])
        self.ledger.missed = [int(number) for number in state.data["missed"]]
        self.accounts = Accounts.restore(state.data["accounts"])
        self.collector.accounts = self.accounts
        self.collector.version = self.version

    def report(self) -> dict[str, Any]:
        """Numbers for the operator."""
        return {
            "version": self.version,
            "updates": self.updates,
            "lanes": self.ledger.seated,
            "state": self._state_name(),
            "learner_pid": self.learner.pid if self.learner else None,
            "queued": self.store.steps,
            "accounting": self.accounts.report(self.store.steps),
        }

    def _state_name(self) -> str:
        if self.learner is None:
            return "frozen"
        if self.collector.learning:
            return self.learner.state_name
        if self.evaluation.active:
            return "evaluating"
        return "paused" if self.collector.paused else "collecting"
