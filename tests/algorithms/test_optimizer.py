"""FlatAdam against torch.optim.Adam over separate tensors."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from policy_server.algorithms.optimizer import FlatAdam
from policy_server.errors import CheckpointError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 1)
    )


def loss(net: nn.Module, seed: int) -> torch.Tensor:
    x = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
    result: torch.Tensor = net(x).square().mean() * 10
    return result


@pytest.mark.parametrize(
    ("limit", "by"), [(None, ""), (0.1, "global_norm"), (0.1, "norm"), (0.01, "value")]
)
def test_equals_adam_with_torchs_own_clipping(limit: float | None, by: str) -> None:
    mine = network()
    theirs = copy.deepcopy(mine)
    flat, adam = FlatAdam(mine, 1e-5), torch.optim.Adam(theirs.parameters(), lr=0.01, eps=1e-5)
    for seed in range(5):
        flat.backward(loss(mine, seed))
        adam.zero_grad()
        loss(theirs, seed).backward()
        norm = nn.utils.get_total_norm([p.grad for p in theirs.parameters()])
        torch.testing.assert_close(flat.gradient_norm(), norm)
        if by:
            flat.clip(limit, by)
        if by == "global_norm":
            nn.utils.clip_grad_norm_(theirs.parameters(), limit)
        elif by == "norm":
            for parameter in theirs.parameters():
                nn.utils.clip_grad_norm_(parameter, limit)
        elif by == "value":
            nn.utils.clip_grad_value_(theirs.parameters(), limit)
        flat.step(0.01)
        adam.step()
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_small_gradients_are_left_alone_by_clipping() -> None:
    net = network()
    flat = FlatAdam(net, 1e-5)
    flat.backward(loss(net, 0))
    before = flat.gradient.clone()
    for by in ("global_norm", "norm", "value"):
        flat.clip(1e6, by)
        assert torch.equal(flat.gradient, before)


def test_load_refuses_another_size() -> None:
    flat = FlatAdam(network(), 1e-5)
    state = flat.state()
    flat.load(state)
    state["adam.first_moment"] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError, match=r"adam.first_moment: expected \d+ numbers.*\[3\]"):
        flat.load(state)
    with pytest.raises(CheckpointError, match="got nothing"):
        flat.load({})
