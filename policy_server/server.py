"""The wiring, and nothing else: build -> start -> serve -> drain -> stop.

Two wirings of the same parts. `RayServer`: the gateway in an actor with a socket, each learner
in an actor of its own, simulators in processes of theirs. `LocalServer`: everything in this
thread, in lockstep, no socket and no Ray. The user's object (`algorithm.Algorithm`) cannot tell
them apart.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from policy_server.callbacks import Callbacks
from policy_server.checkpoints.checkpoint import Checkpoint
from policy_server.errors import LearnerError, PolicyServerError
from policy_server.gateway.desk import PolicyDesk
from policy_server.gateway.gateway import Gateway
from policy_server.settings import Settings
from policy_server.types import PolicySpaces, PolicyState
from sim_clients.protocol import EventKind
from sim_clients.protocol.spaces import from_wire

log = logging.getLogger(__name__)

LEARNER_NICENESS = 5
"""On a machine with few cores the learner yields to the gateway and the simulators."""


def policy_seed(seed: int, name: str) -> int:
    """A seed of a policy's own: another policy beside it changes nothing."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def learner_arguments(
    settings: Settings, name: str, spaces: PolicySpaces, seed: int
) -> dict[str, Any]:
    """What `learners.learner.Learner` is made of."""
    own = settings.policy_settings(name)
    threads = settings.learners.threads or max(1, (os.cpu_count() or 1) - 2)
    return {
        "policy_name": name,
        "spaces": spaces,
        "algorithm": own.algorithm,
        "training": own.training,
        "model": own.model,
        "preprocessing": own.preprocessing,
        "seed": seed,
        "device": settings.learners.device,
        "threads": threads,
    }


def build_gateway(
    settings: Settings,
    make_learner: Callable[[dict[str, Any], PolicyState | None], Any],
    callbacks: Callbacks | None,
    checkpoint: Checkpoint | None,
    expected_sessions: int,
) -> Gateway:
    """A gateway whose desks are made when they are needed; those of a checkpoint at once."""
    # torch is loaded here, in the process that serves, and not by whoever only wires.
    from policy_server.inference.served import ServedPolicy

    seed = settings.server.seed
    assert seed is not None, "the seed is drawn when the algorithm is built"
    multi = settings.multi_agent

    def make_desk(name: str, spaces: PolicySpaces) -> PolicyDesk:
        own = settings.policy_settings(name)
        own_seed = policy_seed(seed, name)
        served = ServedPolicy(
            name, spaces, own.model, own.preprocessing, settings.inference, own_seed
        )
        stored = checkpoint.policies.get(name) if checkpoint else None
        gateway_state, learner_state = split_state(stored) if stored else (None, None)
        learner = None
        if multi.policies_to_train is None or name in multi.policies_to_train:
            arguments = learner_arguments(settings, name, served.learner_spaces, own_seed)
            learner = make_learner(arguments, learner_state)
        desk = PolicyDesk(
            name,
            spaces,
            served,
            learner,
            settings.collection,
            own.training.train_batch_size,
            callbacks,
        )
        if gateway_state is not None:
            desk.load(gateway_state)
        return desk

    gateway = Gateway(
        settings.server,
        multi,
        settings.evaluation,
        make_desk,
        expected_sessions=expected_sessions,
    )
    if checkpoint is not None:
        gateway.env_steps = checkpoint.step
        for name, stored in checkpoint.spaces.items():
            gateway.add_desk(name, read_spaces(stored))
    elif settings.environment.observation_space is not None:
        env = settings.environment
        spaces = PolicySpaces(env.observation_space, env.action_space, env.action_mask)
        for name in multi.policies:
            gateway.add_desk(name, spaces)
    return gateway


# -- what a checkpoint holds of a policy -----------------------------------------------------------


def join_state(gateway: PolicyState, learner: PolicyState | None) -> PolicyState:
    """The gateway's and the learner's share as one, names apart."""
    tensors = {f"gateway/{k}": v for k, v in gateway.tensors.items()}
    data: dict[str, Any] = {"gateway": gateway.data, "learner": None}
    if learner is not None:
        tensors |= {f"learner/{k}": v for k, v in learner.tensors.items()}
        data["learner"] = learner.data
    return PolicyState(tensors, data)


def split_state(state: PolicyState) -> tuple[PolicyState, PolicyState | None]:
    """The inverse."""

    def part(name: str) -> PolicyState:
        prefix = f"{name}/"
        tensors = {k[len(prefix) :]: v for k, v in state.tensors.items() if k.startswith(prefix)}
        return PolicyState(tensors, state.data[name])

    return part("gateway"), part("learner") if state.data["learner"] is not None else None


def write_spaces(spaces: PolicySpaces) -> dict[str, Any]:
    return {
        "observation": spaces.observation.to_wire(),
        "action": spaces.action.to_wire(),
        "mask": spaces.mask,
    }


def read_spaces(data: dict[str, Any]) -> PolicySpaces:
    return PolicySpaces(from_wire(data["observation"]), from_wire(data["action"]), data["mask"])


def collect(gateway: Gateway) -> dict[str, Any]:
    """Everything a checkpoint needs, on the gateway's thread; learner states as the learner's
    handle gives them (references where it is remote)."""
    return {
        "step": gateway.env_steps,
        "spaces": {name: write_spaces(desk.spaces) for name, desk in gateway.desks.items()},
        "policies": {
            name: (desk.state(), desk.learner.request_state() if desk.learner else None)
            for name, desk in gateway.desks.items()
        },
    }


# -- sockets and Ray ----------------------------------------------------------------------------------


class GatewayActor:
    """The gateway in a process of its own. Its loop has a thread for itself; the methods below
    run on others and hand over to it."""

    def start(
        self,
        settings: Settings,
        callbacks: type[Callbacks] | None,
        checkpoint: Checkpoint | None,
        expected_sessions: int,
        gpus_per_learner: float,
    ) -> str:
        """Opens the door and serves. Returns the address.

        Raises:
            AddressError, CheckpointError, ConfigError: there is nothing to serve.
        """
        from policy_server.gateway.loop import RouterLoop
        from policy_server.learners.remote import RayLearner

        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
        # The door first: an address that is taken must not cost a learner's start.
        self._loop = loop = RouterLoop(settings.server)
        # Where simulators wait for the learner anyway, it need not stand back.
        niceness = LEARNER_NICENESS if settings.collection.mode == "async" else 0
        resources = {"num_cpus": 0, "num_gpus": gpus_per_learner}

        def make_learner(arguments: dict[str, Any], state: PolicyState | None) -> RayLearner:
            restarts = settings.learners.max_restarts
            return RayLearner(arguments, state, resources, restarts, niceness, loop.wake)

        observer = callbacks() if callbacks else None
        self._gateway = build_gateway(
            settings, make_learner, observer, checkpoint, expected_sessions
        )
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()
        return loop.address

    def _run(self) -> None:
        try:
            self._loop.run(self._gateway)
        except Exception as error:
            # Ours or a user's callback or network: the run ends, and says why. Sessions survive
            # it: simulators come back when the server does.
            log.exception("the gateway's loop ended")
            self._gateway.failure = f"the gateway's loop ended: {type(error).__name__}: {error}"

    def pid(self) -> int:
        return os.getpid()

    def _on_loop(self, command: Callable[[], Any]) -> Any:
        future = self._gateway.submit(command)
        self._loop.wake()
        return self._result(future, None)

    def _result(self, future: Future[Any], timeout_s: float | None) -> Any:
        """Of something that the loop's thread will do, as long as that lives."""
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                return future.result(min(1.0, max(0.0, until - time.monotonic())))
            except TimeoutError:
                if not self._thread.is_alive():
                    failure = self._gateway.failure or "the gateway has stopped"
                    raise PolicyServerError(failure) from None
                if time.monotonic() >= until:
                    raise

    def _wait(
        self, begin: Callable[[], Any], done: Callable[[], bool], timeout_s: float | None
    ) -> bool:
        gateway = self._gateway

        def command() -> Any:
            begin()
            return gateway.when(lambda: gateway.failure is not None or done())

        waiting = self._on_loop(command)
        try:
            self._result(waiting, timeout_s)
        except TimeoutError:
            waiting.cancel()
            return False
        return True

    def train(self, updates: int | None, timeout_s: float | None = None) -> bool:
        """Lets the learners make `updates` more; None: as many as they can, returns at once.
        False: the time ran out first; the learners go on."""
        gateway = self._gateway
        if updates is None or updates == 0:
            self._on_loop(lambda: gateway.train(updates))
            return True
        return self._wait(lambda: gateway.train(updates), gateway.trained, timeout_s)

    def keep_training(self, timeout_s: float) -> bool:
        """Waits on for what `train` asked for."""
        return self._wait(lambda: None, self._gateway.trained, timeout_s)

    def evaluate(self, episodes: int, timeout_s: float | None) -> bool:
        """Plays evaluation episodes; True when they are over."""
        gateway = self._gateway
        return self._wait(lambda: gateway.evaluate(episodes), gateway.evaluated, timeout_s)

    def keep_evaluating(self, timeout_s: float) -> bool:
        return self._wait(lambda: None, self._gateway.evaluated, timeout_s)

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = self._on_loop(self._gateway.report)
        report["address"] = self._loop.address
        report["messages"]["stray_frames"] = self._loop.stray_frames
        report["messages"]["undeliverable"] = self._loop.undeliverable
        return report

    def collect(self) -> dict[str, Any]:
        state: dict[str, Any] = self._on_loop(lambda: collect(self._gateway))
        return state

    def drain(self, timeout_s: float) -> dict[str, Any]:
        """No new sessions, no new batches, no more actions; waits for what is with the learners,
        and gives the last state."""
        gateway = self._gateway

        def begin() -> None:
            gateway.draining = True
            gateway.train(0)
            self._loop.send(gateway.broadcast(EventKind.DRAIN, {}))

        def idle() -> bool:
            return not any(desk.collector.learning for desk in gateway.desks.values())

        self._wait(begin, idle, timeout_s)
        return self.collect()

    def stop(self, final: bool) -> None:
        """Tells the simulators, and gives the address back. `final`: they need not come back."""
        self._loop.stop()
        self._thread.join(5.0)
        data = {"reason": "the server stops", "final": final}
        self._loop.send(self._gateway.broadcast(EventKind.SHUTDOWN, data))
        self._loop.close()


class RayServer:
    """Gateway, learners and Ray, seen from the process that uses them.

    Raises:
        AddressError, CheckpointError, ConfigError: nothing was started then.
    """

    def __init__(
        self,
        settings: Settings,
        callbacks: type[Callbacks] | None = None,
        checkpoint: Checkpoint | None = None,
    ):
        import ray

        from policy_server.gateway.loop import check_address

        check_address(settings.server.bind, settings.server.insecure)
        self._started_ray = False
        if not ray.is_initialized():
            start_ray(settings.server.ray_address)
            self._started_ray = True
        device = settings.learners.device
        gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
        share = 0.0
        if gpus and (device == "auto" or device.startswith("cuda")):
            share = min(1.0, gpus / (len(settings.multi_agent.policies) + 1))
        expected = settings.simulators.num
        actor: Any = ray.remote(GatewayActor).options(
            num_cpus=0,
            num_gpus=share if settings.inference.device != "cpu" else 0,
            max_concurrency=8,
        )
        self._ray = ray
        self._actor = actor.remote()
        try:
            self.address: str = self._get(
                self._actor.start.remote(settings, callbacks, checkpoint, expected, share)
            )
        except BaseException:
            self._end()
            raise

    def _get(self, reference: Any) -> Any:
        """The actor's answer; its errors as they were raised there."""
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, PolicyServerError) else error) from None
        except exceptions.RayActorError as error:
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
        def learner(value: Any) -> PolicyState | None:
            if isinstance(value, self._ray.ObjectRef):
                value = self._get(value)
            return value

        policies = {
            name: join_state(own, learner(other))
            for name, (own, other) in state["policies"].items()
        }
        return Checkpoint(state["step"], policies, state["spaces"], settings, data)

    def stop(self, final: bool) -> None:
        """Ends gateway and learners, and Ray if we started it."""
        try:
            self._ray.get(self._actor.stop.remote(final), timeout=15)
        except self._ray.exceptions.RayError as error:
            log.warning("the gateway did not stop by itself: %s", error)
        self._end()

    def _end(self) -> None:
        self._ray.kill(self._actor)
        if self._started_ray:
            self._ray.shutdown()


def start_ray(address: str | None) -> None:
    """Ray on this machine, quiet and only for us; or a cluster that exists."""
    import ray

    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )


# -- one thread ---------------------------------------------------------------------------------------


class InProcess:
    """A client's transport without a wire: frames lie here until the next tick."""

    def __init__(self, peer: bytes, outbox: list[tuple[bytes, bytes]]):
        self.peer = peer
        self.replies: deque[bytes] = deque()
        self._outbox = outbox

    def send(self, frame: bytes) -> None:
        self._outbox.append((self.peer, frame))

    def receive(self, timeout_s: float | None) -> bytes | None:
        return self.replies.popleft() if self.replies else None

    def reconnect(self) -> None:
        self.replies.clear()

    def close(self) -> None:
        self.replies.clear()


class LocalServer:
    """The same parts in this thread: simulators and gateway take turns, learners work at once.

    Nothing depends on the time of day or on how fast the machine is: the clock counts ticks.
    """

    def __init__(
        self,
        settings: Settings,
        callbacks: type[Callbacks] | None = None,
        checkpoint: Checkpoint | None = None,
    ):
        from policy_server.learners.learner import Learner
        from policy_server.learners.local import LocalLearner

        def make_learner(arguments: dict[str, Any], state: PolicyState | None) -> LocalLearner:
            return LocalLearner(Learner(**arguments), state)

        self.address = "in process"
        self.ticks = 0
        self._inbox: list[tuple[bytes, bytes]] = []
        self._transports: dict[bytes, InProcess] = {}
        observer = callbacks() if callbacks else None
        num = settings.simulators.num
        self._gateway = build_gateway(settings, make_learner, observer, checkpoint, num)
        self._gateway.clock = self.clock
        self._simulators: list[Any] = []

    def clock(self) -> float:
        """Seconds, one millisecond a tick."""
        return self.ticks * 1e-3

    def transport(self) -> InProcess:
        """For one more simulator in this process."""
        transport = InProcess(b"peer-%d" % len(self._transports), self._inbox)
        self._transports[transport.peer] = transport
        return transport

    def add_simulator(self, simulator: Any) -> None:
        """Anything with `send()` and `receive(timeout_s) -> bool`."""
        simulator.send()
        self._simulators.append(simulator)

    def _tick(self) -> None:
        self.ticks += 1
        now = self.clock()
        inbox = self._inbox[:]
        self._inbox.clear()
        for peer, frame in self._gateway.answer(inbox, now):
            self._transports[peer].replies.append(frame)
        self._gateway.finish(now)
        for simulator in self._simulators:
            if simulator.receive(0.0):
                simulator.send()

    def _run(self, done: Callable[[], bool], check: Callable[[], None]) -> None:
        while not done():
            if self._gateway.failure is not None:
                raise LearnerError(self._gateway.failure)
            self._tick()
            if self.ticks % 256 == 0:
                check()

    def train(self, updates: int | None, check: Callable[[], None]) -> None:
        """Until every learner has made `updates` more."""
        self._gateway.train(updates)
        if updates:
            self._run(self._gateway.trained, check)

    def evaluate(self, episodes: int, check: Callable[[], None]) -> None:
        """Until the evaluation episodes are over."""
        self._gateway.evaluate(episodes)
        self._run(self._gateway.evaluated, check)

    def report(self) -> dict[str, Any]:
        report = self._gateway.report()
        report["address"] = self.address
        return report

    def checkpoint(self, settings: dict[str, Any], data: dict[str, Any]) -> Checkpoint:
        state = collect(self._gateway)
        policies = {name: join_state(*both) for name, both in state["policies"].items()}
        return Checkpoint(state["step"], policies, state["spaces"], settings, data)

    def drain(self, settings: dict[str, Any], data: dict[str, Any]) -> Checkpoint:
        self._gateway.draining = True
        self._gateway.train(0)
        return self.checkpoint(settings, data)

    def stop(self, final: bool) -> None:
        self._simulators.clear()
