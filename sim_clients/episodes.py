"""Episodes one at a time, many interleaved, with the method names of RLlib's policy client.

client = EpisodeClient("tcp://127.0.0.1:5555", observation_space, action_space)
episode = client.start_episode()
action = client.get_action(episode, observation)
client.log_returns(episode, reward)
...
client.end_episode(episode, observation)            # or truncated=True
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sim_clients.client import Client
from sim_clients.columns import Group, Lanes, Rows
from sim_clients.errors import InvalidStep, RequestRefused
from sim_clients.protocol import spaces

_REMEMBERED = 4096  # ended ids, kept to tell "has ended" from "never was"


@dataclass
class _Episode:
    lane: int
    begun: bool = False  # the server knows of it
    reward: float = 0.0  # since the last request
    metrics: dict[str, float] = field(default_factory=dict)  # said with the ending
    executed: Any = None  # batch of one: the action logged instead of the server's
    logged: bool = False  # `executed` is to be said with the next request


class EpisodeClient:
    """Single observations in, single actions out. Safe to use from several threads.

    Args:
        address, observation_space, action_space: as in `Client` and `Group`.
        max_episodes: how many may be open at once.
        group: their name on the wire.
        mask: every observation comes with an action mask.
        client_options: further arguments of `Client` (identity, token, timeout_s, ...).
    """

    def __init__(
        self,
        address: str | None,
        observation_space: Any,
        action_space: Any,
        max_episodes: int = 64,
        group: str = "agent",
        *,
        mask: bool = False,
        **client_options: Any,
    ):
        spec = Group(observation_space, action_space, max_episodes, mask)
        self._group = group
        self._lock = threading.Lock()
        self.client = Client(address, {group: spec}, **client_options)
        declared = self.client.groups[group]
        self._observation_space = declared.observation_space
        self._action_space = declared.action_space
        self._masked = mask
        self._open: dict[str, _Episode] = {}
        self._ended: dict[str, None] = {}  # oldest first
        self._free = list(reversed(range(max_episodes)))

    def start_episode(self, episode_id: str | None = None, training_enabled: bool = True) -> str:
        """Opens an episode and returns its id (a new one if none is given).

        Raises:
            InvalidStep: the id is in use, or too many episodes are open.
        """
        if not training_enabled:
            raise InvalidStep(
                "expected training_enabled=True, got False: whether an episode is trained on is "
                "decided by the server; for evaluation use its evaluation settings."
            )
        with self._lock:
            name = uuid.uuid4().hex if episode_id is None else episode_id
            if name in self._open:
                raise InvalidStep(
                    f"expected a new episode id, got '{name}', which is open already."
                )
            if not self._free:
                raise InvalidStep(
                    f"expected at most {len(self._open)} open episodes, got one more: end some, or "
                    "make the client with a larger max_episodes."
                )
            self._ended.pop(name, None)
            self._open[name] = _Episode(self._free.pop())
            return name

    def get_action(self, episode_id: str, observation: Any, *, mask: Any = None) -> Any:
        """The server's action for this observation; `mask` is uint8[mask_width] where declared."""
        with self._lock:
            episode = self._episode(episode_id)
            return _row(self._say(episode, observation, mask=mask), 0)

    def log_action(
        self, episode_id: str, observation: Any, action: Any, *, mask: Any = None
    ) -> None:
        """Reports an action that the simulator chose itself for this observation."""
        with self._lock:
            episode = self._episode(episode_id)
            executed = _batch_of_one(self._action_space, action)
            self._say(episode, observation, mask=mask)
            episode.executed, episode.logged = executed, True

    def log_returns(
        self, episode_id: str, reward: float, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Adds to the reward of the last action; `metrics` are named numbers of the episode."""
        with self._lock:
            episode = self._episode(episode_id)
            if not episode.begun:
                raise InvalidStep(
                    f"episode '{episode_id}': expected an action before a reward, got none: call "
                    "get_action or log_action first."
                )
            for name, value in (metrics or {}).items():
                if not isinstance(value, (int, float, np.number)):
                    raise InvalidStep(
                        f"metrics '{name}': expected a number, got {type(value).__name__}."
                    )
            episode.reward += float(reward)
            episode.metrics.update({name: float(v) for name, v in (metrics or {}).items()})

    def end_episode(
        self,
        episode_id: str,
        observation: Any,
        *,
        terminated: bool | None = None,
        truncated: bool = False,
    ) -> None:
        """Ends an episode with its final observation; terminated unless `truncated`.

        One without any action is forgotten here; the server never hears of it.

        Raises:
            InvalidStep: both endings, or neither.
        """
        terminated = not truncated if terminated is None else terminated
        if bool(terminated) == bool(truncated):
            raise InvalidStep(
                f"expected one of terminated and truncated, got {terminated} and {truncated}."
            )
        with self._lock:
            episode = self._episode(episode_id)
            try:
                if episode.begun:
                    self._say(episode, observation, ending=(bool(terminated), bool(truncated)))
            except (InvalidStep, RequestRefused):
                raise  # nothing happened: the caller may end it again, with better data
            except BaseException:
                self._forget(episode_id)
                raise
            self._forget(episode_id)

    def close(self, reason: str = "done") -> None:
        """Says BYE; open episodes count as interrupted. Idempotent."""
        with self._lock:
            self.client.close(reason)

    def __enter__(self) -> EpisodeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- pieces --------------------------------------------------------------------------------

    def _episode(self, episode_id: str) -> _Episode:
        episode = self._open.get(episode_id)
        if episode is None:
            state = "has ended" if episode_id in self._ended else "was never started"
            raise InvalidStep(
                f"expected the id of an open episode, got '{episode_id}', which {state}: call "
                "start_episode()."
            )
        return episode

    def _forget(self, episode_id: str) -> None:
        self._free.append(self._open.pop(episode_id).lane)
        self._ended[episode_id] = None
        if len(self._ended) > _REMEMBERED:
            self._ended.pop(next(iter(self._ended)))

    def _say(
        self,
        episode: _Episode,
        observation: Any,
        *,
        mask: Any = None,
        ending: tuple[bool, bool] | None = None,
    ) -> Any:
        lanes = Lanes(
            _batch_of_one(self._observation_space, observation),
            rewards=[episode.reward],
            first=[not episode.begun],
            lanes=[episode.lane],
            metrics={0: episode.metrics} if ending is not None and episode.metrics else None,
            executed=Rows([0], episode.executed) if episode.logged else None,
        )
        if mask is not None:
            lanes.mask = np.asarray(mask)[None]
        elif ending is not None and self._masked:
            # A final observation has no action to restrict.
            lanes.mask = np.ones((1, spaces.mask_width(self._action_space)), np.uint8)
        if ending is not None:
            lanes.terminated, lanes.truncated, lanes.leaving = [ending[0]], [ending[1]], [True]
        try:
            actions = self.client.step({self._group: lanes})[self._group]
        except InvalidStep:
            raise  # nothing was sent: the reward still waits
        except RequestRefused:
            episode.reward, episode.logged = 0.0, False
            raise
        except BaseException:
            episode.reward, episode.logged = 0.0, False
            episode.begun = True  # the server may well have it
            raise
        episode.reward, episode.logged = 0.0, False
        episode.begun = True
        return actions


def _batch_of_one(space: spaces.Space, value: Any) -> Any:
    if isinstance(space, spaces.Dict) and isinstance(value, Mapping):
        return {key: _batch_of_one(space.spaces[key], part) for key, part in value.items()}
    if isinstance(space, spaces.Tuple) and isinstance(value, (tuple, list)):
        return tuple(_batch_of_one(s, part) for s, part in zip(space.spaces, value, strict=True))
    return np.asarray(value)[None]


def _row(value: Any, row: int) -> Any:
    if isinstance(value, dict):
        return {key: _row(part, row) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_row(part, row) for part in value)
    return value[row]
