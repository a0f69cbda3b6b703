"""Batches made by hand: what a gateway would have collected, without one."""

from __future__ import annotations

import numpy as np
import torch

from policy_server.algorithms.ops.distributions import HeadLayout
from policy_server.networks import PolicyNetwork
from policy_server.types import ActionLayout, Batch, Leaves, PolicySpaces
from sim_clients.protocol.spaces import Box, Leaf, choices, leaves


def random_leaf(leaf: Leaf, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """`[*shape, *leaf.shape]` in the leaf's dtype."""
    full = (*shape, *leaf.shape)
    if isinstance(leaf, Box):
        if leaf.dtype.kind == "u":
            return rng.integers(0, 256, full).astype(leaf.dtype)
        return rng.normal(size=full).astype(leaf.dtype)
    nvec = choices(leaf).reshape(leaf.shape)
    return (rng.integers(0, nvec, full) + getattr(leaf, "start", 0)).astype(leaf.dtype)


def act(
    network: PolicyNetwork,
    spaces: PolicySpaces,
    obs: Leaves,
    masks: np.ndarray | None,
    generator: torch.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """categories `[n, K]`, reals `[n, D]` and log-probabilities `[n]` for n observations."""
    head_layout = HeadLayout(ActionLayout(spaces.action))
    with torch.no_grad():
        head = network.policy(tuple(torch.from_numpy(leaf) for leaf in obs))
        mask = None if masks is None else torch.from_numpy(masks)
        policy = head_layout.distribution(head, network.log_std, mask)
        categories, reals = policy.sample(generator)
        logp = policy.log_prob(categories, reals)
    return categories.numpy(), reals.numpy(), logp.numpy()


def random_batch(
    network: PolicyNetwork,
    spaces: PolicySpaces,
    steps: int,
    lanes: int,
    seed: int,
    lengths: np.ndarray | None = None,
    endings: float = 0.2,
) -> Batch:
    """Random observations, rewards and endings; actions of `network`; padding poisoned."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    lengths = np.full(lanes, steps) if lengths is None else lengths
    layout = ActionLayout(spaces.action)
    flat = tuple(
        random_leaf(leaf, ((steps + 1) * lanes,), rng) for _, leaf in leaves(spaces.observation)
    )
    masks = None
    if spaces.mask:
        masks = rng.integers(0, 2, (steps * lanes, layout.mask_width)).astype(np.uint8)
        masks[:, np.cumsum(layout.nvec) - layout.nvec] = 1
    seen = tuple(leaf[: steps * lanes] for leaf in flat)
    categories, reals, logp = act(network, spaces, seen, masks, generator)
    ending = rng.random((steps, lanes)) < endings
    terminated = ending & (rng.random((steps, lanes)) < 0.5)
    truncated = ending & ~terminated
    valid = np.arange(steps)[:, None] < lengths
    final_index = np.argwhere(truncated & valid)
    final_obs = tuple(
        random_leaf(leaf, (len(final_index),), rng) for _, leaf in leaves(spaces.observation)
    )
    batch = Batch(
        obs=tuple(leaf.reshape(steps + 1, lanes, *leaf.shape[1:]) for leaf in flat),
        categories=categories.reshape(steps, lanes, -1),
        reals=reals.reshape(steps, lanes, -1),
        logp=logp.reshape(steps, lanes),
        rewards=rng.normal(size=(steps, lanes)).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        lengths=lengths.astype(np.int64),
        versions=np.zeros((steps, lanes), np.int64),
        lanes=np.arange(lanes),
        episodes=np.zeros((steps, lanes), np.int64),
        first_t=np.zeros(lanes, np.int64),
        masks=None if masks is None else masks.reshape(steps, lanes, -1),
        final_obs=final_obs,
        final_index=final_index,
    )
    poison_padding(batch)
    return batch


def poison_padding(batch: Batch) -> None:
    """NaN, -1, 171 or True wherever no step is."""
    steps = batch.rewards.shape[0]
    beyond_obs = np.arange(steps + 1)[:, None] > batch.lengths
    for leaf in batch.obs:
        leaf[beyond_obs] = {"f": np.nan, "i": -1, "u": 0xAB}[leaf.dtype.kind]
    beyond = ~batch.valid
    for column in (batch.rewards, batch.logp, batch.reals):
        column[beyond] = np.nan
    for column in (batch.categories, batch.versions, batch.episodes):
        column[beyond] = -1
    for column in (batch.terminated, batch.truncated):
        column[beyond] = True
    if batch.masks is not None:
        batch.masks[beyond] = 0xAB
