"""From the gateway's reports to the numbers a user sees: one window of episodes per policy."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from policy_server.types import Episode


class PolicyProgress:
    """One policy's newest episodes and losses."""

    def __init__(self, window: int):
        self.returns: deque[float] = deque(maxlen=window)
        self.lengths: deque[int] = deque(maxlen=window)
        self.custom: dict[str, deque[float]] = {}
        self.window = window
        self.episodes = 0
        self.metrics: dict[str, float] = {}
        self.updates = 0

    def add(self, episode: Episode) -> None:
        """Training episodes that were seen whole."""
        if episode.evaluation or not episode.complete or episode.ending == "interrupted":
            return
        self.episodes += 1
        self.returns.append(episode.return_)
        self.lengths.append(episode.length)
        for name, value in episode.metrics.items():
            self.custom.setdefault(name, deque(maxlen=self.window)).append(value)


class Progress:
    """Everything about a run that changes, folded into one flat result.

    Args:
        window: newest episodes over which means are taken.
        clock: seconds, monotonic.
    """

    def __init__(self, window: int, clock: Callable[[], float] = time.monotonic):
        self.window = window
        self.policies: dict[str, PolicyProgress] = {}
        self.env_steps = 0
        self.last_report: dict[str, Any] = {}
        self._clock = clock
        self._began = clock()
        self._before_s = 0.0  # of runs that this one resumes
        self._steps_at_start: int | None = None
        self._rates: deque[tuple[float, int]] = deque(maxlen=8)

    # -- in -----------------------------------------------------------------------------------

    def feed(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        """Takes in a report. Returns the update results in it, each with its policy's name."""
        results: list[dict[str, Any]] = []
        self.last_report = report
        self.env_steps = report["env_steps"]
        if self._steps_at_start is None:
            self._steps_at_start = self.env_steps
        now = self._clock()
        if not self._rates or now - self._rates[-1][0] >= 0.5:
            self._rates.append((now, self.env_steps))
        for name, entry in report["policies"].items():
            policy = self.policies.setdefault(name, PolicyProgress(self.window))
            for episode in entry["episodes"]:
                policy.add(episode)
            for result in entry["results"]:
                policy.metrics = result["metrics"]
                policy.updates = result["updates"]
                results.append({"policy": name, **result})
        return results

    # -- out ----------------------------------------------------------------------------------

    @property
    def wall_s(self) -> float:
        return self._before_s + self._clock() - self._began

    @property
    def steps_per_s(self) -> float:
        """Over the last few seconds."""
        if len(self._rates) < 2:
            return 0.0
        (t0, s0), (t1, s1) = self._rates[0], self._rates[-1]
        return (s1 - s0) / (t1 - t0) if t1 > t0 else 0.0

    @property
    def window_full(self) -> bool:
        """Every policy has as many episodes as means are taken over."""
        return bool(self.policies) and all(
            len(p.returns) == self.window for p in self.policies.values()
        )

    @property
    def new_steps(self) -> int:
        """Environment steps since this run began (or was resumed)."""
        return self.env_steps - (self._steps_at_start or 0)

    def episode_return_mean(self) -> float | None:
        """Overall: the sum over policies of their mean returns, as all their agents share an
        environment; None before every policy has an episode."""
        means = [_mean(p.returns) for p in self.policies.values()]
        if not means or any(mean is None for mean in means):
            return None
        return sum(m for m in means if m is not None)

    def result(self) -> dict[str, Any]:
        """What `train()` returns; nested per policy."""
        report = self.last_report
        policies = {}
        for name, policy in self.policies.items():
            entry = report["policies"].get(name, {})
            policies[name] = {
                "version": entry.get("version", 0),
                "updates": entry.get("updates", 0),
                "episodes": policy.episodes,
                "episode_return_mean": _mean(policy.returns),
                "episode_length_mean": _mean(policy.lengths),
                "state": entry.get("state"),
                "learner_pid": entry.get("learner_pid"),
                "queued": entry.get("queued", 0),
                "lanes": entry.get("lanes", 0),
                "metrics": dict(policy.metrics),
                "custom_metrics": {k: _mean(v) for k, v in policy.custom.items()},
                "accounting": entry.get("accounting"),
            }
        return {
            "env_steps": self.env_steps,
            "episodes": max((p.episodes for p in self.policies.values()), default=0),
            "episode_return_mean": self.episode_return_mean(),
            "steps_per_s": self.steps_per_s,
            "wall_s": self.wall_s,
            "stepping_s": report.get("stepping_s", 0.0),
            "simulators": report.get("simulators", 0),
            "lanes": report.get("lanes", 0),
            "address": report.get("address"),
            "accounting": _total([p["accounting"] for p in policies.values()]),
            "messages": report.get("messages", {}),
            "policies": policies,
        }

    def flat(self, result: dict[str, Any]) -> dict[str, float]:
        """The same as flat names for the sinks: "policy1/episode_return_mean"."""
        values: dict[str, float] = {}

        def put(name: str, value: Any) -> None:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                values[name] = value

        for name in (
            "env_steps",
            "episodes",
            "episode_return_mean",
            "steps_per_s",
            "simulators",
            "lanes",
        ):
            put(name, result[name])
        put("time_s", result["wall_s"])
        for name, number in result["accounting"].items():
            if name == "dropped":
                for reason, steps in number.items():
                    put(f"dropped/{reason}", steps)
            else:
                put(f"accounting/{name}", number)
        for policy, entry in result["policies"].items():
            for name in (
                "version",
                "episodes",
                "episode_return_mean",
                "episode_length_mean",
                "queued",
            ):
                put(f"{policy}/{name}", entry[name])
            for name, number in {**entry["metrics"], **entry["custom_metrics"]}.items():
                put(f"{policy}/{name}", number)
        for policy, number in (result.get("evaluation") or {}).get("policies", {}).items():
            put(f"evaluation/{policy}/episode_return_mean", number["episode_return_mean"])
        put(
            "evaluation/episode_return_mean",
            (result.get("evaluation") or {}).get("episode_return_mean"),
        )
        return values

    # -- over a restart -------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "wall_s": self.wall_s,
            "policies": {
                name: {
                    "episodes": p.episodes,
                    "returns": list(p.returns),
                    "lengths": list(p.lengths),
                }
                for name, p in self.policies.items()
            },
        }

    def load(self, state: dict[str, Any]) -> None:
        self._before_s = float(state["wall_s"])
        self._began = self._clock()
        for name, stored in state["policies"].items():
            policy = self.policies.setdefault(name, PolicyProgress(self.window))
            policy.episodes = int(stored["episodes"])
            policy.returns.extend(stored["returns"])
            policy.lengths.extend(stored["lengths"])


def _mean(values: Any) -> float | None:
    return sum(values) / len(values) if values else None


def _total(accounts: list[dict[str, Any] | None]) -> dict[str, Any]:
    total: dict[str, Any] = {"accepted": 0, "trained": 0, "queued": 0, "dropped": {}, "balance": 0}
    for account in accounts:
        for name, number in (account or {}).items():
            if name == "dropped":
                for reason, steps in number.items():
                    total["dropped"][reason] = total["dropped"].get(reason, 0) + steps
            else:
                total[name] += number
    return total
