"""W7: how much of torch's own speed our learner keeps."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

import numpy as np

from policy_server.bench.child import Child, children
from policy_server.bench.figure import Figure, Result, Tell, at_least
from policy_server.bench.plan import Plan
from policy_server.bench.workloads import ACTION, FRAGMENT_STEPS, MLP, OBSERVATION
from policy_server.types import Batch

LANES = 64
TRAINING = {
    "train_batch_size": LANES * FRAGMENT_STEPS, "minibatch_size": 128, "num_epochs": 10,
    "lr": 3e-4, "entropy_coeff": 0.01, "use_kl_loss": False,
}  # fmt: skip
OURS, BARE = "learner", "bare loop"
DEVICE = "device"


def updates(plan: Plan, tell: Tell) -> Result:
    """Samples per second: steps times epochs, per second of an update."""
    rates: dict[str, list[float]] = {OURS: [], BARE: []}
    with children(Child(main)) as (child,):
        device = child.ask(DEVICE)
        for side in rates:
            child.ask(side)  # what torch does only once
        for repeat in range(plan.repeats):
            for side, mine in rates.items():
                tell(f"W7: {side}, {repeat + 1} of {plan.repeats}")
                mine.append(child.ask(side))
        child.pipe.send(None)
    figure = Figure(
        "PPO samples", "/s", tuple(rates[OURS]), tuple(rates[BARE]), "bare torch loop",
        # A graph of CUDA saves what a bare loop spends on launching kernels.
        at_least(4.0 if device == "cuda" else 0.9),
    )  # fmt: skip
    title = (
        f"PPO updates of {TRAINING['train_batch_size']:,} steps, minibatches of "
        f"{TRAINING['minibatch_size']}, {TRAINING['num_epochs']} epochs, on {device}"
    )
    return Result("W7", title, (figure,))


def some_batch(lanes: int, terminated: float = 0.02) -> Batch:
    """Random steps of the usual shape; nothing truncated, no padding."""
    rng = np.random.default_rng(1)
    shape = (FRAGMENT_STEPS, lanes)
    return Batch(
        obs=(rng.standard_normal((shape[0] + 1, lanes, *OBSERVATION.shape), np.float32),),
        categories=rng.integers(0, 5, (*shape, 1)),
        reals=np.zeros((*shape, 0), np.float32),
        logp=np.full(shape, -np.log(5.0), np.float32),
        rewards=rng.standard_normal(shape, np.float32),
        terminated=rng.random(shape) < terminated,
        truncated=np.zeros(shape, bool),
        lengths=np.full(lanes, shape[0], np.int64),
        versions=np.zeros(shape, np.int64),
        lanes=np.arange(lanes),
        episodes=np.zeros(shape, np.int64),
        first_t=np.zeros(lanes, np.int64),
        masks=None,
        final_obs=(np.zeros((0, *OBSERVATION.shape), np.float32),),
        final_index=np.zeros((0, 2), np.int64),
    )


def main(pipe: Connection) -> None:
    """A process of its own, as the learner has. `pipe` says whose turn it is, or asks for the
    device, or says None."""
    import torch

    from policy_server.algorithms.ppo import PPOTraining
    from policy_server.bench.bare_ppo import BarePPO
    from policy_server.config import ModelConfig, PreprocessingConfig
    from policy_server.learners.learner import Learner
    from policy_server.types import PolicySpaces

    training = PPOTraining(**TRAINING)  # type: ignore[arg-type]
    hidden = list(ModelConfig().hidden)
    assert hidden == MLP["hidden"]
    spaces = PolicySpaces(OBSERVATION, ACTION)
    learner = Learner(
        "bench", spaces, "PPO", training, ModelConfig(), PreprocessingConfig(),
        seed=1, threads=0,
    )  # fmt: skip
    bare = BarePPO(OBSERVATION.shape[0], hidden, 5, training, learner.device)
    batch = some_batch(LANES)
    while (side := pipe.recv()) is not None:
        if side == DEVICE:
            pipe.send(learner.device.type)
            continue
        begin = time.perf_counter()
        if side == OURS:
            learner.update(batch, 0)
        else:
            bare.update(batch)
        if learner.device.type == "cuda":
            torch.cuda.synchronize(learner.device)
        seconds = time.perf_counter() - begin
        pipe.send(batch.steps * training.num_epochs / seconds)
