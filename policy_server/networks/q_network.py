"""Values of actions, for algorithms that act by them: plain, dueling, distributional, noisy."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from policy_server.config import ModelConfig
from policy_server.networks.custom import make_encoder
from policy_server.networks.mlp import MLP, dense_layer, linear
from policy_server.networks.policy import ActingNetwork, Observations, PlainPolicy
from policy_server.networks.precision import computed_in
from policy_server.types import ActionLayout, PolicySpaces

HEAD_GAIN = 0.1
"""Values begin close to 0."""


class QOptions(NamedTuple):
    """Attributes:
    dueling: a value of the observation and advantages of the actions, instead of values of both
        (https://arxiv.org/abs/1511.06581, equation 9).
    atoms: of a return's distribution, evenly between v_min and v_max; 1: its mean alone
        (https://arxiv.org/abs/1707.06887).
    noisy: first deviation of the noise in the head's weights; 0: none
        (https://arxiv.org/abs/1706.10295, factorised).
    """

    dueling: bool = False
    atoms: int = 1
    v_min: float = -10.0
    v_max: float = 10.0
    noisy: float = 0.0


class NoisyLinear(nn.Module):
    """A dense layer whose weights are mean + deviation * noise; the noise is drawn by `redraw`, and
    travels with the weights.

    Source: Fortunato et al., https://arxiv.org/abs/1706.10295, section 3.1, factorised.
    """

    def __init__(self, inputs: int, outputs: int, gain: float, deviation: float):
        super().__init__()
        self.mean = linear(inputs, outputs, gain)
        first = deviation / math.sqrt(inputs)
        self.weight_deviation = nn.Parameter(torch.full((outputs, inputs), first))
        self.bias_deviation = nn.Parameter(torch.full((outputs,), first))
        self.noise_in: torch.Tensor
        self.noise_out: torch.Tensor
        self.register_buffer("noise_in", torch.zeros(inputs))
        self.register_buffer("noise_out", torch.zeros(outputs))

    def redraw(self, generator: torch.Generator) -> None:
        """Other noise: f(x) = sign(x) sqrt|x| of normal numbers."""
        for noise in (self.noise_in, self.noise_out):
            drawn = torch.randn(noise.shape, generator=generator)
            noise.copy_(drawn.sign() * drawn.abs().sqrt())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # (weight + deviation * out in^T) x, without the outer product.
        noise = nn.functional.linear(x * self.noise_in, self.weight_deviation)
        result: torch.Tensor = self.mean(x) + (noise + self.bias_deviation) * self.noise_out
        return result


class QNetwork(ActingNetwork):
    """Encoder, hidden layers, and a head of one or two streams.

    Heads are `[n, W]` values of actions; with noise `[n, 2 W]`, of which the second half is
    without it.

    Attributes:
        support: `[atoms]`, the returns that a distribution is over.
    """

    def __init__(self, spaces: PolicySpaces, model: ModelConfig, options: QOptions):
        super().__init__()
        self.options = options
        self._precision = model.precision
        self.actions = ActionLayout(spaces.action).mask_width
        self.encoder = make_encoder(spaces, model)
        self.body = MLP(self.encoder.outputs, model.hidden, model.activation, model.layer_norm)
        self.advantage = self._stream(self.actions * options.atoms)
        self.value = self._stream(options.atoms) if options.dueling else None
        self.support: torch.Tensor
        support = torch.linspace(options.v_min, options.v_max, options.atoms)
        self.register_buffer("support", support, persistent=False)

    def _stream(self, outputs: int) -> nn.Module:
        if self.options.noisy:
            return NoisyLinear(self.body.outputs, outputs, HEAD_GAIN, self.options.noisy)
        return linear(self.body.outputs, outputs, HEAD_GAIN)

    def redraw_noise(self, generator: torch.Generator) -> None:
        """Other noise, if there is any."""
        for part in (self.advantage, self.value):
            if isinstance(part, NoisyLinear):
                part.redraw(generator)

    def logits(self, obs: Observations) -> torch.Tensor:
        """Of each action's distribution of returns, `[n, W, atoms]`; with one atom the value."""
        return self._combined(self._features(obs), noisy=True)

    def values(self, obs: Observations) -> torch.Tensor:
        """Of all actions, `[n, W]`."""
        return self.means(self.logits(obs))

    def policy(self, obs: Observations) -> torch.Tensor:
        hidden = self._features(obs)
        values = self.means(self._combined(hidden, noisy=True))
        if not self.options.noisy:
            return values
        return torch.cat([values, self.means(self._combined(hidden, noisy=False))], dim=1)

    def _features(self, obs: Observations) -> torch.Tensor:
        with computed_in(self._precision, obs):
            hidden: torch.Tensor = self.body(self.encoder(obs))
        return hidden.float()

    def _combined(self, hidden: torch.Tensor, noisy: bool) -> torch.Tensor:
        def stream(part: nn.Module) -> torch.Tensor:
            whole = part if noisy or not isinstance(part, NoisyLinear) else part.mean
            result: torch.Tensor = whole(hidden)
            return result

        each = stream(self.advantage).view(len(hidden), self.actions, self.options.atoms)
        if self.value is None:
            return each
        value = stream(self.value).view(len(hidden), 1, self.options.atoms)
        return value + each - each.mean(1, keepdim=True)

    def means(self, logits: torch.Tensor) -> torch.Tensor:
        """Values of distributions: `[n, W, atoms]` -> `[n, W]`."""
        if self.options.atoms == 1:
            return logits.squeeze(2)
        return (torch.softmax(logits, dim=2) * self.support).sum(2)

    def policy_layers(self) -> PlainPolicy | None:
        recipe, head = self.encoder.recipe(), self.advantage
        plain = self.value is None and self.options.atoms == 1 and self._precision == "float32"
        if recipe is None or not plain or not isinstance(head, nn.Linear):
            return None
        return PlainPolicy(recipe, [*self.body.dense_layers(), dense_layer(head, "identity")])
