"""Runs Gymnasium environments as a simulator of a policy server.

python -m sim_clients.gymnasium CartPole-v1 --address tcp://127.0.0.1:5555 --num-envs 8
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sim_clients.client import Client
from sim_clients.columns import Group
from sim_clients.command import (
    UsageError,
    check_count,
    make_client,
    parser,
    run_politely,
)
from sim_clients.protocol import spaces
from sim_clients.rows import RowStore, action_rows, flat_mask
from sim_clients.runner import FAREWELL_S, Runner, Summary, in_halves
from sim_clients.space_conversion import as_space


class GymnasiumSimulator(Runner):
    """Environments of one kind, stepped in this process; environment i is lane i.

    Args:
        client: a single-group `Client`, or a function that makes one for the `Group` given.
        envs: the environments; all with the same spaces. Closed by `close`.
        seed: environment i is first reset with seed + i; None: unseeded.
        action_mask: `info["action_mask"]` of each reset and step goes along.
    """

    def __init__(
        self,
        client: Client | Callable[[Group], Client],
        envs: Sequence[Any],
        seed: int | None = None,
        *,
        action_mask: bool = False,
    ):
        if not envs:
            raise ValueError("envs: expected at least one environment, got none.")
        n = len(envs)
        self.observation_space = as_space(envs[0].observation_space)
        self.action_space = as_space(envs[0].action_space)
        for i, env in enumerate(envs):
            same = as_space(env.observation_space) == self.observation_space
            if not same or as_space(env.action_space) != self.action_space:
                raise ValueError(
                    f"envs: expected the same spaces in all, got others in number {i}."
                )
        group = Group(self.observation_space, self.action_space, n, action_mask)
        super().__init__(client if isinstance(client, Client) else client(group), envs)
        self._obs = RowStore(self.observation_space, n)
        self._final = RowStore(self.observation_space, n)
        self._mask: np.ndarray | None = None
        if action_mask:
            self._mask = np.zeros((n, spaces.mask_width(self.action_space)), np.uint8)
        self._rewards = np.zeros(n, np.float32)
        self._terminated = np.zeros(n, bool)
        self._truncated = np.zeros(n, bool)
        self._totals = [0.0] * n
        self._seed = seed
        self._started = False
        self._sent = False

    def send(self) -> None:
        """Resets what has ended and asks for the next actions. Does nothing while it waits."""
        if self._sent:
            return
        if not self._started:
            for i in range(len(self.envs)):
                self._reset(i, None if self._seed is None else self._seed + i)
            self._started = True
        elif self._terminated.any() or self._truncated.any():
            for i in np.flatnonzero(self._terminated | self._truncated).tolist():
                if self._truncated[i]:
                    self._final.copy_row(self._obs, i)
                self._reset(i, None)
        self.client.send_step(
            self._obs.value,
            self._rewards,
            self._terminated,
            self._truncated,
            final_obs=self._final.value,
            mask=self._mask,
        )
        self._sent = True

    def receive(self, timeout_s: float | None = None) -> bool:
        """Steps every environment once its action is there; False where none came in time."""
        actions = self.client.receive_actions(timeout_s)
        if actions is None:
            return False
        self._sent = False
        rows = action_rows(self.action_space, actions, len(self.envs))
        for i, (env, action) in enumerate(zip(self.envs, rows, strict=True)):
            obs, reward, terminated, truncated, info = env.step(action)
            self._obs.write(i, obs)
            self._rewards[i] = reward
            self._totals[i] += float(reward)
            self._terminated[i] = terminated
            # An episode has one ending; where an environment names two, nothing comes after it.
            self._truncated[i] = truncated and not terminated
            if self._mask is not None:
                self._mask[i] = flat_mask(info, self._mask.shape[1])
            if terminated or truncated:
                self.count_episode(self._totals[i])
                self._totals[i] = 0.0
        self.steps += len(self.envs)
        return True

    def finish(self) -> None:
        """Tells the server what the last actions led to; all lanes go idle."""
        if self._sent or not self._started:
            return
        mask = None if self._mask is None else np.ones_like(self._mask)
        self.client.send_step(
            self._obs.value,
            self._rewards,
            self._terminated,
            self._truncated,
            leaving=np.ones(len(self.envs), bool),
            mask=mask,
        )
        self.client.receive_actions(FAREWELL_S)
        self._started = False
        self._terminated[:] = self._truncated[:] = False
        self._totals = [0.0] * len(self.envs)

    def _reset(self, i: int, seed: int | None) -> None:
        obs, info = self.envs[i].reset(seed=seed)
        self._obs.write(i, obs)
        self._totals[i] = 0.0
        if self._mask is not None:
            self._mask[i] = flat_mask(info, self._mask.shape[1])


def make_environments(env: Any, num_envs: int, env_kwargs: dict[str, Any] | None) -> list[Any]:
    """Gymnasium environments from an id, a function that makes one, or one that exists.

    Raises:
        UsageError: the id is unknown, or the environment cannot be made.
    """
    check_count("num_envs", num_envs)
    kwargs = env_kwargs or {}
    if not isinstance(env, str):
        if hasattr(env, "step") and not isinstance(env, type):
            if num_envs != 1 or kwargs:
                raise UsageError(
                    "expected an environment's id or a function that makes one where there are "
                    "several or arguments, got an environment that exists."
                )
            return [env]
        return [env(**kwargs) for _ in range(num_envs)]
    if importlib.util.find_spec("gymnasium") is None:
        raise UsageError("expected Gymnasium to be installed: pip install 'policy-server[gym]'.")
    import gymnasium

    if env.split("/")[0] == "ALE" or (":" not in env and env not in gymnasium.registry):
        _register_atari()
    try:
        return [gymnasium.make(env, **kwargs) for _ in range(num_envs)]
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        raise UsageError(f"environment '{env}' cannot be made: {error}") from None


def _register_atari() -> None:
    if importlib.util.find_spec("ale_py") is not None:
        import ale_py
        import gymnasium

        gymnasium.register_envs(ale_py)


def run_gymnasium(
    env_or_id: Any,
    address: str,
    num_envs: int = 1,
    env_kwargs: dict[str, Any] | None = None,
    seed: int | None = None,
    identity: str | None = None,
    episodes: int | None = None,
    steps: int | None = None,
    max_seconds: float | None = None,
    group: str = "agent",
    *,
    action_mask: bool = False,
    token: str | None = None,
    pipelined: bool = False,
) -> Summary:
    """Runs environments against the server at `address` until a limit is reached (default: never).

    Args:
        env_or_id: a Gymnasium id, a function that makes an environment, or an environment.
        pipelined: half of the environments step while the other half waits for actions.

    Raises:
        UsageError: the environment cannot be made, or its spaces cannot travel.
        ClientError: see `sim_clients.errors`.
    """
    envs = make_environments(env_or_id, num_envs, env_kwargs)

    def make(mine: Sequence[Any], seed: int | None, name: str | None) -> Runner:
        def connect(spec: Group) -> Client:
            return make_client(address, spec, identity=name, token=token, group=group)

        return GymnasiumSimulator(connect, mine, seed, action_mask=action_mask)

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
    options = parser("sim_clients.gymnasium", __doc__.splitlines()[0], "ENV_ID")
    options.add_argument("--group", default="agent", help="name of the agents on the wire")
    given = options.parse_args(arguments)
    return run_politely(
        lambda: run_gymnasium(
            given.env, given.address, given.num_envs, given.env_kwargs, given.seed,
            given.identity, given.episodes, given.steps, group=given.group,
            action_mask=given.action_mask, token=given.token, pipelined=given.pipelined,
        )
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
