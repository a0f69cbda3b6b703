"""A memory that attends to the last K steps of the episode.

Source: GTrXL, Parisotto et al., https://arxiv.org/abs/1910.06764: layer norm in front of each
part, gated connections around it, keys and values of earlier steps kept from layer to layer as in
Transformer-XL (https://arxiv.org/abs/1901.02860). Deviations: what is learned per distance is a
bias on the attention of each head instead of relative encodings of positions; gates are the
"output" kind of table 1, x + sigmoid(W x - b) relu(y).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import relu

from policy_server.networks.memory import Memory
from policy_server.networks.mlp import linear

GATE_BIAS = 2.0
"""Gates are nearly closed at first, so that a new network does not look back."""


class Gate(nn.Module):
    """Lets a part of what was computed into the stream."""

    def __init__(self, size: int):
        super().__init__()
        self.open = linear(size, size, 1.0)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + torch.sigmoid(self.open(x) - GATE_BIAS) * relu(y)


class AttentionLayer(nn.Module):
    """One layer: heads that look at the last K inputs and the present one, then a dense layer."""

    def __init__(self, size: int, heads: int, reach: int):
        super().__init__()
        self.heads = heads
        self.norm, self.dense_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.key, self.value, self.merge, self.dense = (
            linear(size, size, 1.0) for _ in range(5)
        )
        self.distance = nn.Parameter(torch.zeros(heads, reach + 1))  # bias on steps so far away
        self.gate, self.dense_gate = Gate(size), Gate(size)

    def forward(self, x: torch.Tensor, past: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
        """Inputs `[n, L, size]` behind earlier ones `[n, K, size]`; `far`: int64 `[n, L, K + L]`,
        how many steps ago each of them was, -1 where nobody may look -> `[n, L, size]`."""
        n, steps, size = x.shape
        seen = self.norm(torch.cat([past, x], dim=1))  # [n, K + L, size]
        query = self.query(seen[:, -steps:]).view(n, steps, self.heads, -1)
        key, value = (
            part(seen).view(n, seen.shape[1], self.heads, -1) for part in (self.key, self.value)
        )
        scores = torch.einsum("nlhd,nmhd->nhlm", query, key) * query.shape[-1] ** -0.5
        scores = scores + self.distance[:, far.clamp(min=0)].transpose(0, 1)
        weights = torch.softmax(scores.masked_fill((far < 0).unsqueeze(1), -1e30), dim=3)
        looked = torch.einsum("nhlm,nmhd->nlhd", weights, value).reshape(n, steps, size)
        x = self.gate(x, self.merge(looked))
        return self.dense_gate(x, self.dense(self.dense_norm(x)))


class AttentionMemory(Memory):
    """Layers of attention over the last K steps.

    Its state is the last K inputs of each layer and how many of them there are: layers * K * size
    + 1 numbers.
    """

    def __init__(self, inputs: int, size: int, layers: int, heads: int, reach: int):
        super().__init__()
        self.outputs, self.state_size = size, layers * reach * size + 1
        self._reach = reach
        self.inlet = linear(inputs, size, 1.0)
        self.layers = nn.ModuleList(AttentionLayer(size, heads, reach) for _ in range(layers))

    def step(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs, inputs = self._run(x.unsqueeze(1), state)
        past, count = self._split(state)
        kept = torch.cat([past, inputs], dim=2)[:, :, 1:]  # the oldest goes
        count = (count + 1).clamp(max=self._reach)
        return outputs.squeeze(1), torch.cat([kept.flatten(1), count.unsqueeze(1)], dim=1)

    def unroll(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return self._run(x.transpose(0, 1), state)[0].transpose(0, 1)

    def _split(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(earlier inputs `[n, layers, K, size]`, how many of them there are `[n]`)."""
        shape = len(state), len(self.layers), self._reach, self.outputs
        return state[:, :-1].view(shape), state[:, -1]

    def _run(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[n, L, F]` -> outputs `[n, L, size]` and the inputs of each layer
        `[n, layers, L, size]`."""
        past, count = self._split(state)
        steps, k = x.shape[1], self._reach
        place = torch.arange(-k, steps, device=x.device)  # of all that can be looked at
        far = place[k:, None] - place  # [L, K + L]
        allowed = ((far >= 0) & (far <= k)) & (place >= -count[:, None, None])
        far = torch.where(allowed, far, -1)
        x, inputs = self.inlet(x), []
        for i, layer in enumerate(self.layers):
            inputs.append(x)
            x = layer(x, past[:, i], far)
        return x, torch.stack(inputs, dim=1)
