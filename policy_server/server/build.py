"""A gateway and the desks of its policies, from settings. The same for both wirings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from policy_server import algorithms
from policy_server.algorithms.groups import GroupSpaces
from policy_server.callbacks import Callbacks
from policy_server.checkpoints.checkpoint import Checkpoint
from policy_server.gateway.desk import PolicyDesk
from policy_server.gateway.gateway import Gateway
from policy_server.named import told
from policy_server.server.state import read_spaces, split_state
from policy_server.settings import Settings
from policy_server.types import PolicySpaces, PolicyState

if TYPE_CHECKING:
    from policy_server.networks import ActingNetwork

MakeLearner = Callable[[dict[str, Any], PolicyState | None], Any]
"""(arguments of `learners.learner.Learner`, state to go on from) -> `interfaces.LearnerHandle`."""


def policy_seed(seed: int, name: str) -> int:
    """A seed of a policy's own: another policy beside it changes nothing."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def learner_arguments(
    settings: Settings, name: str, spaces: PolicySpaces, seed: int
) -> dict[str, Any]:
    """What `learners.learner.Learner` is made of."""
    own = settings.policy_settings(name)
    return {
        "policy_name": name,
        "spaces": spaces,
        "algorithm": own.algorithm,
        "training": own.training,
        "model": own.model,
        "preprocessing": own.preprocessing,
        "exploration": own.exploration,
        "seed": seed,
        "device": settings.learners.device,
        "threads": settings.learners.threads,
        # Then all simulators wait for its weights.
        "alone": own.collection.mode == "sync"
        and not own.collection.ahead
        and len(settings.trained_policies) == 1,
    }


def build_gateway(
    settings: Settings,
    make_learner: MakeLearner,
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
        own.training.supports.check_spaces(own.algorithm, spaces)
        _, page = algorithms.get(own.algorithm)

        def make_network(seen: PolicySpaces) -> ActingNetwork:
            with told(f"{own.algorithm}.make_network"):
                network: ActingNetwork = page.make_network(
                    seen, model=own.model, training=own.training
                )
                return network

        served = ServedPolicy(
            name, spaces, make_network, own.training.acting, own.preprocessing,
            settings.inference, own_seed,
        )  # fmt: skip
        stored = checkpoint.policies.get(name) if checkpoint else None
        gateway_state, learner_state = split_state(stored) if stored else (None, None)
        learner = None
        if name in settings.trained_policies:
            arguments = learner_arguments(settings, name, served.learner_spaces, own_seed)
            learner = make_learner(arguments, learner_state)
        desk = PolicyDesk(
            name,
            spaces,
            served,
            learner,
            own.collection,
            own.training.batch_steps,
            callbacks,
            own.training.off_policy,
            GroupSpaces.of(spaces).rewards if own.training.supports.groups else None,
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
