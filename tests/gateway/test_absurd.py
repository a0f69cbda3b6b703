"""What a simulator may say, however absurd, ends no run: from its frames to a learner that learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policy_server.learners.learner import Learner
from policy_server.learners.local import LocalLearner
from sim_clients.protocol import Actions, Box, GroupSpec, decode
from sim_clients.protocol.limits import NUMBER_LIMIT
from tests.gateway.conftest import World
from tests.gateway.wire import Peer

LANES = 4
SMALL = {"train_batch_size": 64}
UNROLLS = SMALL | {"rollout_fragment_length": 16}
PARTS = {"minibatch_size": 32, "num_epochs": 4}


class Learning(World):
    """A world with a real learner."""

    def _learner(self, arguments: dict[str, Any], state: Any) -> Any:
        return LocalLearner(Learner(**{**arguments, "threads": 1}), state)


@pytest.mark.parametrize("free", [True, False], ids=["own deviations", "deviations seen"])
@pytest.mark.parametrize(
    ("algorithm", "training"),
    [
        ("PG", SMALL),
        ("A2C", SMALL),
        ("PPO", SMALL | PARTS),
        ("IMPALA", UNROLLS),
        ("APPO", UNROLLS | {"minibatch_size": 32}),
        ("SAC", {"steps_per_update": 64, "learning_starts": 64, "samples_per_insert": 8.0}),
    ],
)
def test_observations_out_of_all_proportion(algorithm, training, free):
    model = {"hidden": [32, 32], "activation": "relu", "free_log_std": free}
    world = Learning(algorithm=algorithm, training=training, model=model)
    world.gateway.train(None)
    peer = Peer(world, specs=(GroupSpec("agent", Box(-1, 1, (3,)), Box(-1, 1, (2,)), LANES),))
    peer.hello()
    rng = np.random.default_rng(0)
    for t in range(800):
        obs = rng.normal(size=(LANES, 3))
        if t > 100:
            bad = rng.random(LANES) < 0.02
            obs[bad] = rng.choice([-NUMBER_LIMIT, 1e4, 0.0, NUMBER_LIMIT], (bad.sum(), 3))
        over = rng.random(LANES) < 0.05
        flags = np.where(over, 3, 0).astype(np.uint8) if t else np.ones(LANES, np.uint8)
        rewards = rng.normal(size=LANES).astype("<f4").tobytes()
        frames = [(b"a", peer.frame(t + 1, obs, flags.tobytes(), rewards=rewards))]
        for _ in range(2000):
            replies = [decode(frame) for _, frame in world.tick(*frames)]
            assert world.gateway.failure is None
            frames = []
            if replies:
                break
        (reply,) = replies
        assert isinstance(reply, Actions)
        assert np.isfinite(np.frombuffer(reply.groups[0].actions[0], "<f4")).all()
    assert world.desk.updates > 5
