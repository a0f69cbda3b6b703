"""PPO's update: what it reads, what it keeps, what it repeats."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from handmade import random_batch

from policy_server.algorithms.ppo import PPO, PPOTraining
from policy_server.config import ModelConfig
from policy_server.errors import CheckpointError, LearnerError
from policy_server.networks import flatten_parameters
from policy_server.types import Batch, PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space

VECTOR = Box(-1, 1, (3,))
HYBRID = Dict({"a": MultiDiscrete([3, 2]), "b": Box(-1, 1, (2,)), "c": MultiBinary(2)})
DISCRETE = PolicySpaces(VECTOR, Discrete(3))
SMALL = ModelConfig(hidden=(8,))


def make(spaces: PolicySpaces, model: ModelConfig = SMALL, seed: int = 0, **options: Any) -> PPO:
    defaults = {"lr": 1e-2, "minibatch_size": 16, "num_epochs": 2, "train_batch_size": 64}
    scale = {k: options.pop(k) for k in ("reward_scale", "reward_clip") if k in options}
    config = PPOTraining(**(defaults | options))
    return PPO(spaces, model, config, seed=seed, device=torch.device("cpu"), **scale)


def numbers(ppo: PPO) -> np.ndarray:
    return flatten_parameters(ppo.network)


@pytest.mark.parametrize(
    ("observation", "action", "mask"),
    [
        (VECTOR, Discrete(3), False),
        (VECTOR, Discrete(3), True),
        (Discrete(4, 2), MultiDiscrete([2, 3]), True),
        (MultiBinary(3), MultiBinary(2), False),
        (VECTOR, Box(-1, 1, (2,)), False),
        (Dict({"x": VECTOR, "y": Discrete(3), "z": Box(0, 255, (6, 6, 2), "uint8")}), HYBRID, True),
        (Box(-1, 1, (3,), "float16"), HYBRID, False),
        (Box(0, 9, (2,), "uint16"), Discrete(2), False),
    ],
)
@pytest.mark.parametrize("model", [SMALL, ModelConfig(hidden=(8,), share_layers=True, layer_norm=True, free_log_std=False)])  # fmt: skip
def test_first_ratio_is_one_and_metrics_are_finite(
    observation: Space, action: Space, mask: bool, model: ModelConfig
) -> None:
    spaces = PolicySpaces(observation, action, mask)
    ppo = make(spaces, model)
    batch = random_batch(ppo.network, spaces, 9, 4, 0, np.array([9, 1, 5, 8]))
    before = numbers(ppo)
    metrics = ppo.update(batch, 0)
    assert metrics["first_ratio_error"] < 1e-5
    assert all(np.isfinite(value) for value in metrics.values())
    assert (numbers(ppo) != before).mean() > 0.5


def test_all_metrics_are_there() -> None:
    ppo = make(DISCRETE)
    metrics = ppo.update(random_batch(ppo.network, DISCRETE, 8, 8, 0), 0)
    assert set(metrics) == {
        "total_loss", "policy_loss", "vf_loss", "entropy", "kl", "kl_coeff", "clip_fraction",
        "vf_clip_fraction", "vf_explained_var", "grad_norm", "lr", "entropy_coeff",
        "first_ratio_error",
    }  # fmt: skip


def test_metrics_are_what_their_names_say() -> None:
    """One minibatch, lambda = gamma = 0: the advantage is r - V and the return is r."""
    ppo = make(
        DISCRETE, lambda_=0.0, gamma=0.0, num_epochs=1, minibatch_size=64, vf_clip_param=1.0,
        normalize_advantages=False, clip_param=0.2,
    )  # fmt: skip
    batch = random_batch(ppo.network, DISCRETE, 8, 8, 0)
    batch.logp[:, :2] -= np.float32(np.log(1.25))  # a quarter of the steps: ratio 1.25
    with torch.no_grad():
        obs = (torch.from_numpy(batch.obs[0][:-1].reshape(-1, 3)),)
        values = ppo.network.value(obs).numpy().reshape(8, 8)
        logits = torch.log_softmax(ppo.network.policy(obs), 1)
    advantages = batch.rewards - values
    ratio = np.ones((8, 8))
    ratio[:, :2] = np.where(advantages[:, :2] > 0, 1.2, 1.25)
    metrics = ppo.update(batch, 0)
    assert metrics["clip_fraction"] == 0.25
    assert metrics["vf_clip_fraction"] == pytest.approx((advantages**2 >= 1).mean())
    assert metrics["vf_loss"] == pytest.approx(np.minimum(advantages**2, 1).mean(), rel=1e-4)
    assert metrics["policy_loss"] == pytest.approx(-(ratio * advantages).mean(), rel=1e-3)
    assert metrics["total_loss"] == pytest.approx(metrics["policy_loss"] + metrics["vf_loss"])
    assert metrics["entropy"] == pytest.approx(-(logits.exp() * logits).sum(1).mean().item())
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    explained = 1 - advantages.var() / batch.rewards.var()
    assert metrics["vf_explained_var"] == pytest.approx(explained, abs=1e-4)


def test_stale_log_probs_show_as_ratio_error() -> None:
    ppo = make(DISCRETE)
    batch = random_batch(ppo.network, DISCRETE, 8, 8, 0)
    batch.logp[3, 2] -= np.float32(np.log(1.5))
    assert ppo.update(batch, 0)["first_ratio_error"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("mask", [False, True])
def test_padding_changes_nothing(mask: bool) -> None:
    """The same steps, once tight and once with poison behind them."""
    observation = Dict({"x": VECTOR, "y": Discrete(4), "z": Box(0, 255, (6, 6, 1), "uint8")})
    spaces = PolicySpaces(observation, HYBRID, mask)
    tight, padded = make(spaces), make(spaces)
    batch = random_batch(tight.network, spaces, 6, 5, 0)

    def pad(column: np.ndarray, poison: Any) -> np.ndarray:
        rest = np.full((4, *column.shape[1:]), poison, column.dtype)
        return np.concatenate([column, rest])

    wide = dataclasses.replace(
        batch,
        obs=tuple(pad(o, {"f": np.nan, "i": -1, "u": 0xAB}[o.dtype.kind]) for o in batch.obs),
        masks=None if batch.masks is None else pad(batch.masks, 0xAB),
        **{n: pad(getattr(batch, n), np.nan) for n in ("rewards", "logp", "reals")},
        **{n: pad(getattr(batch, n), True) for n in ("terminated", "truncated")},
        **{n: pad(getattr(batch, n), -1) for n in ("categories", "versions", "episodes")},
    )
    assert tight.update(batch, 0) == padded.update(wide, 0)
    np.testing.assert_array_equal(numbers(tight), numbers(padded))


def test_observations_behind_endings_are_not_read() -> None:
    spaces = PolicySpaces(Dict({"x": VECTOR, "y": Discrete(4)}), Discrete(3))
    ppo = make(spaces)
    batch = random_batch(ppo.network, spaces, 6, 5, 0, endings=1.0)
    batch.obs[0][6] = np.nan
    batch.obs[1][6] = -1
    assert np.isfinite(ppo.update(batch, 0)["total_loss"])


@pytest.mark.parametrize("normalize", [True, False])
def test_each_step_meets_its_own_advantage_and_return(
    normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ppo = make(DISCRETE, lambda_=0.0, gamma=0.5, num_epochs=1, normalize_advantages=normalize)
    batch = random_batch(ppo.network, DISCRETE, 5, 4, 0, np.array([5, 2, 3, 1]), endings=0.0)
    with torch.no_grad():
        values = ppo.network.value((torch.from_numpy(batch.obs[0].reshape(-1, 3)),))
    values = values.numpy().reshape(6, 4)
    advantages = (batch.rewards + 0.5 * values[1:] - values[:-1])[batch.valid]
    returns = advantages + values[:-1][batch.valid]
    if normalize:
        advantages = (advantages - advantages.mean()) / advantages.std()
    expected = sorted(zip(batch.logp[batch.valid], advantages, returns, strict=True))
    from policy_server.algorithms import ppo as page

    seen: list[tuple[float, ...]] = []

    def spy(new: Any, values: Any, mb: Any, *args: Any, **kwargs: Any) -> Any:
        columns = (mb.logp, mb.advantages, mb.returns)
        seen.extend(zip(*(column.tolist() for column in columns), strict=True))
        return real(new, values, mb, *args, **kwargs)

    real = page.ppo_loss
    monkeypatch.setattr(page, "ppo_loss", spy)
    ppo.update(batch, 0)
    np.testing.assert_allclose(sorted(seen), expected, rtol=1e-4, atol=1e-5)


def test_truncated_steps_bootstrap_from_their_own_final_observation() -> None:
    """Final values enter the returns where they belong, and nowhere else."""
    ppo = make(DISCRETE, num_epochs=1, lambda_=0.0, gamma=0.5, vf_clip_param=None)
    batch = random_batch(ppo.network, DISCRETE, 4, 3, 0, endings=0.0)
    batch.truncated[1, 2] = batch.truncated[3, 0] = True
    batch.final_index = np.array([[3, 0], [1, 2]])
    batch.final_obs = (np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32),)
    with torch.no_grad():
        value = lambda obs: ppo.network.value((torch.from_numpy(obs),)).numpy()  # noqa: E731
        values = value(batch.obs[0].reshape(-1, 3)).reshape(5, 3)
        behind = values[1:].copy()
        behind[3, 0], behind[1, 2] = value(batch.final_obs[0])
    expected = np.var(batch.rewards + 0.5 * behind - values[:-1])
    variance = np.var(batch.rewards + 0.5 * behind)
    metrics = ppo.update(batch, 0)
    assert metrics["vf_explained_var"] == pytest.approx(1 - expected / variance, abs=1e-5)


def test_rewards_are_scaled_then_clipped() -> None:
    def updated(rewards: np.ndarray, **options: Any) -> np.ndarray:
        ppo = make(DISCRETE, **options)
        batch = random_batch(ppo.network, DISCRETE, 8, 4, 0)
        ppo.update(dataclasses.replace(batch, rewards=rewards), 0)
        return numbers(ppo)

    rewards = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32) * 4
    by_hand = np.clip(rewards * np.float32(0.5), -1, 1)
    np.testing.assert_array_equal(
        updated(rewards, reward_scale=0.5, reward_clip=1.0), updated(by_hand)
    )
    assert (updated(rewards, reward_scale=0.5) != updated(by_hand)).any()


@pytest.mark.parametrize("minibatch_size", [1, 7, 64])
def test_every_step_counts_once_per_epoch(
    minibatch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where minibatches do not divide the batch, or exceed it."""
    ppo = make(DISCRETE, minibatch_size=minibatch_size, num_epochs=3, train_batch_size=64)
    batch = random_batch(ppo.network, DISCRETE, 5, 4, 0, np.array([5, 2, 3, 1]))
    batch.rewards[batch.valid] = np.arange(11)
    seen: list[tuple[float, ...]] = []
    from policy_server.algorithms import ppo as page

    def spy(new: Any, values: Any, mb: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(tuple(mb.logp.tolist()))
        return real(new, values, mb, *args, **kwargs)

    real = page.ppo_loss
    monkeypatch.setattr(page, "ppo_loss", spy)
    ppo.update(batch, 0)
    sizes = [len(part) for part in seen]
    assert max(sizes) <= minibatch_size
    assert max(sizes) - min(sizes) <= 1
    per_epoch = len(seen) // 3
    epochs = [sum(seen[i : i + per_epoch], ()) for i in range(0, len(seen), per_epoch)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(batch.logp[batch.valid].tolist())
    assert epochs[0] != epochs[1]


def history(ppo: PPO, batches: list[Batch]) -> list[dict[str, float]]:
    return [ppo.update(batch, i) for i, batch in enumerate(batches)]


@pytest.mark.parametrize("options", [{}, {"grad_clip": 0.5, "lr_schedule": [[0, 1e-2], [4, 0.0]]}])
def test_a_restored_one_goes_on_bit_for_bit(options: dict[str, Any]) -> None:
    spaces = PolicySpaces(VECTOR, HYBRID)
    whole = make(spaces, **options)
    batches = [random_batch(whole.network, spaces, 8, 8, seed) for seed in range(5)]
    metrics = history(whole, batches)
    first = make(spaces, **options)
    history(first, batches[:2])
    second = make(spaces, seed=99, **options)
    assert (numbers(second) != numbers(first)).any()
    second.load(first.state())
    rest = [second.update(batch, i + 2) for i, batch in enumerate(batches[2:])]
    assert rest == metrics[2:]
    np.testing.assert_array_equal(numbers(second), numbers(whole))
    assert second.kl_coeff == whole.kl_coeff != whole.config.kl_coeff


def test_state_is_a_copy() -> None:
    ppo = make(DISCRETE)
    state = ppo.state()
    copies = {name: array.copy() for name, array in state.tensors.items()}
    ppo.update(random_batch(ppo.network, DISCRETE, 8, 8, 0), 0)
    for name, array in state.tensors.items():
        np.testing.assert_array_equal(array, copies[name])


def test_state_of_another_network_is_refused() -> None:
    other = make(DISCRETE, ModelConfig(hidden=(9,)))
    with pytest.raises(CheckpointError, match="does not fit"):
        make(DISCRETE).load(other.state())


def test_first_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first = numbers(make(DISCRETE, seed=5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    np.testing.assert_array_equal(numbers(make(DISCRETE, seed=5)), first)
    assert (numbers(make(DISCRETE, seed=6)) != first).any()


def test_schedules_follow_environment_steps() -> None:
    ppo = make(
        DISCRETE,
        lr_schedule=[[0, 1e-2], [100, 0.0]],
        entropy_coeff_schedule=[[0, 0.0], [100, 1.0]],
    )
    batch = random_batch(ppo.network, DISCRETE, 8, 8, 0)
    metrics = ppo.update(batch, 25)
    assert metrics["lr"] == pytest.approx(7.5e-3)
    assert metrics["entropy_coeff"] == pytest.approx(0.25)
    before = numbers(ppo)
    assert ppo.update(batch, 100)["lr"] == 0.0
    np.testing.assert_array_equal(numbers(ppo), before)


def test_kl_coefficient_adapts() -> None:
    gentle, rough = make(DISCRETE, lr=1e-7), make(DISCRETE, lr=0.1, num_epochs=10)
    batch = random_batch(gentle.network, DISCRETE, 8, 8, 0)
    assert gentle.update(batch, 0)["kl_coeff"] == 0.2
    assert gentle.kl_coeff == pytest.approx(0.1)
    assert rough.update(batch, 0)["kl"] > 0.02
    assert rough.kl_coeff == pytest.approx(0.3)
    without = make(DISCRETE, use_kl_loss=False)
    assert without.update(batch, 0)["kl_coeff"] == without.kl_coeff == 0.0


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda batch: batch.rewards.__setitem__((1, 1), np.nan), "the batch's rewards were not"),
        (lambda batch: batch.logp.__setitem__((1, 1), np.nan), "the batch's logp were not"),
        (lambda batch: batch.obs[0].__setitem__((1, 1), np.nan), "observations may hold NaN"),
    ],
)
def test_broken_numbers_are_named(spoil: Any, sentence: str) -> None:
    ppo = make(DISCRETE)
    batch = random_batch(ppo.network, DISCRETE, 8, 4, 0, endings=0.0)
    spoil(batch)
    with pytest.raises(LearnerError, match=sentence):
        ppo.update(batch, 0)


def test_read_only_batches_are_learned_from_and_left_alone() -> None:
    """Arrays from an object store cannot be written."""
    ppo, twin = make(DISCRETE), make(DISCRETE)
    batch = random_batch(ppo.network, DISCRETE, 8, 4, 0)
    metrics = twin.update(batch, 0)
    for array in (*batch.obs, *batch.final_obs, batch.rewards, batch.logp, batch.categories,
                  batch.reals, batch.terminated, batch.truncated, batch.lengths, batch.final_index):  # fmt: skip
        array.flags.writeable = False
    assert ppo.update(batch, 0) == metrics


def test_the_reference_network_for_images_learns() -> None:
    model = ModelConfig(
        hidden=(512, 256, 128),
        activation="leaky_relu",
        layer_norm=True,
        conv_filters=((16, 4, 2), (32, 4, 2), (64, 4, 2), (128, 4, 2)),
    )
    spaces = PolicySpaces(Box(0, 255, (64, 64, 4), "uint8"), Discrete(5))
    ppo = make(spaces, model, num_epochs=1, minibatch_size=16)
    batch = random_batch(ppo.network, spaces, 8, 4, 0)
    metrics = ppo.update(batch, 0)
    assert metrics["first_ratio_error"] < 1e-5
    assert all(np.isfinite(value) for value in metrics.values())


def test_values_in_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from policy_server.algorithms import observations

    whole, pieces = make(DISCRETE), make(DISCRETE)
    batch = random_batch(whole.network, DISCRETE, 8, 8, 0)
    expected = whole.update(batch, 0)
    monkeypatch.setattr(observations, "CHUNK_ELEMENTS", 256 * 5)
    assert pieces.update(batch, 0) == pytest.approx(expected, rel=1e-4, abs=1e-6)
