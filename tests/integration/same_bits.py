"""A small run, and whether two of them came to the same."""

from __future__ import annotations

from policy_server import PPOConfig


def config(lanes=4, memory="none", **server):
    return (
        PPOConfig()
        .environment("CartPole-v1")
        .simulators(num=1, lanes=lanes)
        .training(lr=1e-3, train_batch_size=200, minibatch_size=64, num_epochs=3)
        .preprocessing(normalize_observations=True)
        .model(memory=memory)
        .server(**{"seed": 7, "bind": "tcp://127.0.0.1:*", **server})
    )


def tensors(algorithm, folder, name):
    """Everything a checkpoint holds of the policy, read back from the disk."""
    from policy_server.checkpoints.store import CheckpointStore

    path = algorithm.save(folder / name)
    return CheckpointStore(path).load(path).policies["default_policy"].tensors


def equal(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if one[name].tobytes() != other[name].tobytes()]
    assert not different
