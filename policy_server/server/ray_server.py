"""Gateway, learners and Ray, seen from the process that uses them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from policy_server import algorithms
from policy_server.address import check_address
from policy_server.callbacks import Callbacks
from policy_server.checkpoints.checkpoint import Checkpoint
from policy_server.errors import LearnerError, PolicyServerError
from policy_server.server.gateway_actor import GatewayActor
from policy_server.server.state import join_state
from policy_server.settings import Settings

log = logging.getLogger(__name__)


class RayServer:
    """Opens the door, so that simulators can start; `ready` waits until they are answered.

    Attributes:
        address: where simulators connect.

    Raises:
        AddressError: nothing was started then.
    """

    def __init__(
        self,
        settings: Settings,
        callbacks: type[Callbacks] | None = None,
        checkpoint: Checkpoint | None = None,
    ):
        check_address(settings.server.bind, settings.server.insecure)
        registered = algorithms.registered()
        self._started_ray = False
        if not ray.is_initialized():
            start_ray(settings.server.ray_address)
            self._started_ray = True
        device = settings.learners.device
        gpus = _gpus()
        share = 0.0
        if gpus and (device == "auto" or device.startswith("cuda")):
            share = min(1.0, gpus / (len(settings.multi_agent.policies) + 1))
        actor: Any = ray.remote(GatewayActor).options(
            num_cpus=0,
            num_gpus=share if settings.inference.device != "cpu" else 0,
            max_concurrency=8,
        )
        self._actor = actor.remote()
        try:
            self.address: str = self._get(self._actor.open.remote(settings, share, registered))
        except BaseException:
            self._end()
            raise
        self._serving = self._actor.serve.remote(callbacks, checkpoint, settings.simulators.num)

    def ready(self) -> None:
        """Blocks until the gateway answers.

        Raises:
            CheckpointError, ConfigError: there is nothing to serve.
        """
        self._get(self._serving)

    def _get(self, reference: Any) -> Any:
        """The actor's answer; its errors as they were raised there."""
        try:
            return ray.get(reference)
        except RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, PolicyServerError) else error) from None
        except RayActorError as error:
            reason = str(error).strip().splitlines()[-1]
            raise PolicyServerError(f"the gateway is gone: {reason}") from None

    def train(self, updates: int | None, check: Callable[[], None]) -> None:
        """Blocks until every learner has made `updates` more (None: returns at once, learners
        go on). `check` is called a few times a second meanwhile, and may raise."""
        done = self._get(self._actor.train.remote(updates, 0.5))
        while not done:
            check()
            done = self._get(self._actor.keep_training.remote(0.5))

    def evaluate(self, episodes: int, check: Callable[[], None]) -> None:
        """Blocks until the evaluation episodes are over."""
        done = self._get(self._actor.evaluate.remote(episodes, 0.5))
        while not done:
            check()
            done = self._get(self._actor.keep_evaluating.remote(0.5))

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = self._get(self._actor.report.remote())
        if report["failure"] is not None:
            raise LearnerError(report["failure"])
        return report

    def checkpoint(self, settings: dict[str, Any], data: dict[str, Any]) -> Checkpoint:
        """The state of everything, consistent per policy."""
        return self._assemble(self._get(self._actor.collect.remote()), settings, data)

    def drain(self, settings: dict[str, Any], data: dict[str, Any]) -> Checkpoint:
        """Comes to rest, and gives the last state."""
        return self._assemble(self._get(self._actor.drain.remote(60.0)), settings, data)

    def _assemble(
        self, state: dict[str, Any], settings: dict[str, Any], data: dict[str, Any]
    ) -> Checkpoint:
        while True:
            try:
                policies = {
                    name: join_state(own, None if learner is None else ray.get(learner))
                    for name, (own, learner) in state["policies"].items()
                }
            except RayActorError:
                # It died before its state was there. Its successor has one, or the report says
                # why there is none.
                time.sleep(0.1)
                self.report()
                state = self._get(self._actor.collect.remote())
            else:
                return Checkpoint(state["step"], policies, state["spaces"], settings, data)

    def stop(self, final: bool) -> None:
        """Ends gateway and learners, and Ray if we started it."""
        try:
            ray.get(self._actor.stop.remote(final), timeout=15)
        except RayError as error:
            log.warning("the gateway did not stop by itself: %s", error)
        self._end()

    def _end(self) -> None:
        ray.kill(self._actor)
        if self._started_ray:
            ray.shutdown()


def start_ray(address: str | None) -> None:
    """Ray on this machine, quiet and only for us; or a cluster that exists."""
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return
    # Ray tells its makers about its use unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # It would have its workers stand back behind everybody, our gateway behind the simulators.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )


def _gpus() -> float:
    """Of the cluster, or of the share of it that whoever started us was given."""
    group = ray.util.get_current_placement_group()
    if group is not None:
        return float(sum(bundle.get("GPU", 0) for bundle in group.bundle_specs))
    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
