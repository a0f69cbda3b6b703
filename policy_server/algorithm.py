"""The user's object: build, train, evaluate, save, restore, stop.

algo = PPOConfig().environment("CartPole-v1").simulators(num=2, lanes=8).build()
result = algo.train()
path = algo.save()
algo.stop()
"""

from __future__ import annotations

import dataclasses
import secrets
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from policy_server.callbacks import Callbacks
from policy_server.checkpoints.checkpoint import Checkpoint
from policy_server.checkpoints.store import CheckpointStore
from policy_server.declared import check_declared
from policy_server.errors import CheckpointError, ConfigError
from policy_server.metrics.progress import Progress
from policy_server.settings import Settings
from policy_server.simulators import SimulatorFleet, local_simulator
from policy_server.types import Episode

if TYPE_CHECKING:
    from policy_server.server import LocalServer, RayServer


class Algorithm:
    """Policies that learn from simulators.

    Args:
        settings: all of them; `PPOConfig().….build()` is the usual way here.
        callbacks: a class of observers; one instance lives here and one at the gateway.
        in_process: everything in this process, in lockstep, without sockets and Ray.
        checkpoint: a folder to go on from.
    """

    def __init__(
        self,
        settings: Settings,
        callbacks: type[Callbacks] | None = None,
        in_process: bool = False,
        checkpoint: str | Path | None = None,
    ):
        if settings.server.seed is None:
            server = dataclasses.replace(settings.server, seed=secrets.randbelow(2**31))
            settings = dataclasses.replace(settings, server=server)
        self.settings = settings
        self.in_process = in_process
        self._callbacks_class = callbacks
        self._callbacks = callbacks() if callbacks else Callbacks()
        self._store: CheckpointStore | None = None
        self.progress = Progress(settings.metrics.window_episodes)
        self.iterations = 0
        self.last_evaluation: dict[str, Any] | None = None
        self._begin(CheckpointStore(checkpoint).load(checkpoint) if checkpoint else None)

    def _begin(self, checkpoint: Checkpoint | None) -> None:
        check_declared(self.settings)
        self._evaluations = 0  # taken from this server so far
        self._server = self._wire(checkpoint)
        self._fleet: SimulatorFleet | None = None
        if checkpoint is not None:
            self.iterations = int(checkpoint.data.get("iterations", 0))
            self.progress.load(checkpoint.data["progress"])
        try:
            self._start_simulators()
            self._server.ready()
            self._refresh()
        except BaseException:
            self.stop()
            raise

    def _wire(self, checkpoint: Checkpoint | None) -> LocalServer | RayServer:
        """Loads only the wiring that is wanted: torch for the one, Ray for the other."""
        if self.in_process:
            from policy_server.server import LocalServer

            return LocalServer(self.settings, self._callbacks_class, checkpoint)
        from policy_server.server import RayServer

        return RayServer(self.settings, self._callbacks_class, checkpoint)

    def _start_simulators(self) -> None:
        num, run_dir = self.settings.simulators.num, self.settings.server.run_dir
        if self.in_process:
            server: Any = self._server
            for index in range(num):
                transport = server.transport()
                simulator = local_simulator(self.settings, index, transport, server.clock)
                server.add_simulator(simulator)
        elif num:
            logs = (
                Path(run_dir) / "simulators"
                if run_dir
                else Path(tempfile.mkdtemp(prefix="policy-server-"))
            )
            self._fleet = SimulatorFleet(self.settings, self._server.address, logs)

    # -- what the user calls ----------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where simulators connect."""
        return self._server.address

    @property
    def simulator_pids(self) -> list[int]:
        """Processes that we started."""
        return self._fleet.pids if self._fleet else []

    def train(self) -> dict[str, Any]:
        """One update of every policy that is trained. Blocks while too few steps come in.

        Returns:
            A dict with, among others, `env_steps`, `episodes`, `episode_return_mean` (the sum
            over policies, None before every policy has an episode), `steps_per_s`, `accounting`
            and `policies`, which has the same and the losses for each policy.
        """
        self._server.train(1, self._check)
        self.iterations += 1
        result = self._refresh()
        self._callbacks.on_train_result(result=result)
        return result

    def train_freely(self) -> None:
        """Lets the learners go on by themselves; `status` tells how far they are."""
        self._server.train(None, self._check)

    def rest(self) -> None:
        """The learners finish what they have and wait."""
        self._server.train(0, self._check)

    def evaluate(self, episodes: int | None = None) -> dict[str, Any]:
        """Plays greedy episodes, not trained on; what is open is cut, and training rests.

        Returns:
            `episode_return_mean`, `episodes`, and per policy the mean, the extremes, lengths and
            named metrics.
        """
        wanted = self.settings.evaluation.episodes if episodes is None else episodes
        if wanted < 1:
            raise ConfigError(f"episodes: expected at least 1, got {wanted}.")
        self._server.evaluate(wanted, self._check)
        result: dict[str, Any] = self._refresh()["evaluation"]
        return result

    def status(self) -> dict[str, Any]:
        """How things stand, without waiting for anything. Restarts simulators that died."""
        self._check()
        return self._refresh()

    def save(self, path: str | Path | None = None) -> str:
        """Writes a checkpoint. `path`: the folder that holds checkpoints; None: the run
        folder's. Returns the new checkpoint's own folder."""
        self._refresh()
        checkpoint = self._server.checkpoint(self.settings.to_mapping(), self._data())
        return self._write(checkpoint, path)

    def restore(self, path: str | Path) -> None:
        """Goes on from a checkpoint: a checkpoint's folder, or one that holds several.

        The server starts again with the stored policies; simulators that connect by themselves
        find it again and carry on.

        Raises:
            CheckpointError: nothing usable there, or it was made for other policies.
        """
        checkpoint = CheckpointStore(path).load(path)
        unknown = set(checkpoint.policies) - set(self.settings.multi_agent.policies)
        if unknown:
            raise CheckpointError(
                f"checkpoint {path} holds policies {sorted(unknown)}, but multi_agent.policies has "
                f"only {sorted(self.settings.multi_agent.policies)}."
            )
        # The same door again: simulators that are connected need not be told.
        if not self.in_process:
            server = dataclasses.replace(self.settings.server, bind=self._server.address)
            self.settings = dataclasses.replace(self.settings, server=server)
        self._stop_parts(final=False)
        self.progress = Progress(self.settings.metrics.window_episodes)
        self._begin(checkpoint)

    def drain(self) -> str | None:
        """Comes to rest: no new batches, what is with the learners is finished, and a last
        checkpoint is written where there is a run folder. Returns its path."""
        checkpoint = self._server.drain(self.settings.to_mapping(), {})
        self._refresh()
        checkpoint = dataclasses.replace(checkpoint, data=self._data())
        return self._write(checkpoint, None) if self.settings.server.run_dir else None

    def stop(self, final: bool = True) -> None:
        """Ends simulators that we started, learners and gateway. Others are told; `final`: that
        they need not come back. Does nothing the second time."""
        self._stop_parts(final)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- inside -----------------------------------------------------------------------------------

    def _stop_parts(self, final: bool) -> None:
        fleet, self._fleet = self._fleet, None
        if fleet is not None:
            fleet.stop()
        server = self.__dict__.pop("_server", None)
        if server is not None:
            server.stop(final)

    def _check(self) -> None:
        if self._fleet is not None:
            self._fleet.check()

    def _refresh(self) -> dict[str, Any]:
        report = self._server.report()
        self.new_results = self.progress.feed(report)
        self._take_evaluation(report)
        result = self.progress.result()
        result["iteration"] = self.iterations
        result["evaluation"] = self.last_evaluation
        return result

    def _take_evaluation(self, report: dict[str, Any]) -> None:
        """Keeps the result of an evaluation that every policy has completed since the last."""
        entries = report["policies"]
        completed = min((entry["evaluations"] for entry in entries.values()), default=0)
        if completed <= self._evaluations:
            return
        self._evaluations = completed
        policies = {name: _summary(entry["evaluation"]) for name, entry in entries.items()}
        self.last_evaluation = {
            "env_steps": report["env_steps"],
            "episodes": max(policy["episodes"] for policy in policies.values()),
            "episode_return_mean": sum(p["episode_return_mean"] for p in policies.values()),
            "policies": policies,
        }
        self._callbacks.on_evaluation(result=self.last_evaluation)

    def _data(self) -> dict[str, Any]:
        return {"progress": self.progress.state(), "iterations": self.iterations}

    def _write(self, checkpoint: Checkpoint, folder: str | Path | None) -> str:
        run_dir = self.settings.server.run_dir
        if folder is None:
            folder = Path(run_dir or tempfile.mkdtemp(prefix="policy-server-")) / "checkpoints"
        store = CheckpointStore(Path(folder), keep=self.settings.checkpointing.keep)
        path = str(store.save(checkpoint))
        self._callbacks.on_checkpoint(path=path)
        return path


def _summary(episodes: list[Episode]) -> dict[str, Any]:
    returns = [episode.return_ for episode in episodes]
    names = sorted({name for episode in episodes for name in episode.metrics})
    custom: dict[str, float] = {}
    for name in names:
        values = [e.metrics[name] for e in episodes if name in e.metrics]
        custom[name] = sum(values) / len(values)
    return {
        "episodes": len(returns),
        "episode_return_mean": sum(returns) / len(returns),
        "episode_return_min": min(returns),
        "episode_return_max": max(returns),
        "episode_length_mean": sum(e.length for e in episodes) / len(episodes),
        "custom_metrics": custom,
    }
