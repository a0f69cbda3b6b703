"""Networks of the user's own.

The class is named as `model.custom = "module:Class"` and made as
`Class(spaces, outputs=H, **custom_kwargs)`. It is a torch module with three methods, `policy`,
`value` and `forward`, as in `policy.PolicyNetwork`; H is `policy.head_width`. Free log deviations
and autoregressive heads are added for it. Where networks have other heads than a policy and a value
(values of actions, critics), it takes the place of the encoder (`CustomEncoder`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from policy_server.config import ModelConfig
from policy_server.errors import ConfigError
from policy_server.named import named
from policy_server.networks.encoder import ObservationEncoder
from policy_server.networks.flatten import some_value
from policy_server.networks.policy import Observations, PolicyNetwork, head_width
from policy_server.types import ActionLayout, PolicySpaces
from sim_clients.protocol.spaces import leaves

_METHODS = ("policy", "value", "forward")
FEATURES = 64
"""Of a module in place of the encoder, where there are no hidden layers."""


class CustomNetwork(PolicyNetwork):
    """A user's module behind the common interface.

    Raises:
        ConfigError: it cannot be found, made or called, or answers in the wrong shape.
    """

    def __init__(self, spaces: PolicySpaces, model: ModelConfig):
        super().__init__()
        layout = ActionLayout(spaces.action)
        self.name = str(model.custom)
        outputs = head_width(layout, model)
        self.module = _construct(self.name, spaces, outputs, model.custom_kwargs)
        self._add_to_heads(layout, model)
        self._try_out(spaces, outputs)

    def policy(self, obs: Observations) -> torch.Tensor:
        head: torch.Tensor = self.module.policy(obs)  # type: ignore[operator]
        return head

    def value(self, obs: Observations) -> torch.Tensor:
        value: torch.Tensor = self.module.value(obs)  # type: ignore[operator]
        return value

    def forward(self, obs: Observations) -> tuple[torch.Tensor, torch.Tensor]:
        result: tuple[torch.Tensor, torch.Tensor] = self.module(obs)
        return result

    def _try_out(self, spaces: PolicySpaces, outputs: int) -> None:
        obs = _first_observations(spaces, 2)
        _check_answer(self.name, self.module, "policy", obs, [(2, outputs)])
        _check_answer(self.name, self.module, "value", obs, [(2,)])
        _check_answer(self.name, self.module, "forward", obs, [(2, outputs), (2,)])


class CustomEncoder(nn.Module):
    """A user's module in place of the encoder of observations, for algorithms whose networks have
    other heads than a policy and a value: its `policy` gives features, and our hidden layers and
    heads come behind it. The other two methods are not needed here.

    Shapes: one tensor `[n, *leaf.shape]` per leaf -> float32 `[n, outputs]`.

    Attributes:
        outputs: features per observation: as many as the last hidden layer has units.

    Raises:
        ConfigError: it cannot be found, made or called, or answers in the wrong shape.
    """

    def __init__(self, spaces: PolicySpaces, model: ModelConfig):
        super().__init__()
        name, self.outputs = str(model.custom), model.hidden[-1] if model.hidden else FEATURES
        self.module = _construct(name, spaces, self.outputs, model.custom_kwargs, ("policy",))
        obs = _first_observations(spaces, 2)
        _check_answer(name, self.module, "policy", obs, [(2, self.outputs)])

    def forward(self, obs: Observations) -> torch.Tensor:
        features: torch.Tensor = self.module.policy(obs)  # type: ignore[operator]
        return features

    def recipe(self) -> None:
        """It may be anything."""


def make_encoder(spaces: PolicySpaces, model: ModelConfig) -> ObservationEncoder | CustomEncoder:
    """What is in front of the hidden layers: of the user's own, where there is one."""
    if model.custom is not None:
        return CustomEncoder(spaces, model)
    return ObservationEncoder(spaces.observation, model)


def _check_answer(
    name: str,
    module: nn.Module,
    method: str,
    obs: Observations,
    shapes: list[tuple[int, ...]],
) -> None:
    """Asks it about two observations: better now than in the first update."""
    try:
        with torch.no_grad():
            answer = getattr(module, method)(obs)
    except Exception as error:
        raise ConfigError(
            f"model.custom: {name}.{method} failed on two observations of shapes "
            f"{[tuple(leaf.shape) for leaf in obs]}: {type(error).__name__}: {error}"
        ) from error
    parts = answer if method == "forward" and isinstance(answer, tuple) else (answer,)
    came = [tuple(getattr(part, "shape", ("no tensor",))) for part in parts]
    if came != shapes:
        raise ConfigError(
            f"model.custom: expected {name}.{method} to answer two observations with shapes "
            f"{shapes}, got {came}."
        )


def _construct(
    name: str,
    spaces: PolicySpaces,
    outputs: int,
    kwargs: dict[str, Any],
    methods: tuple[str, ...] = _METHODS,
) -> nn.Module:
    made, attribute = named("model.custom", name), name.partition(":")[2]
    try:
        network = made(spaces, outputs=outputs, **kwargs)
    except TypeError as error:
        raise ConfigError(
            f"model.custom: {name} cannot be made as {attribute}(spaces, outputs={outputs}, "
            f"**{kwargs}): {error}."
        ) from error
    missing = [method for method in methods if not callable(getattr(network, method, None))]
    if missing or not isinstance(network, nn.Module):
        fault = f"without {', '.join(missing)}" if missing else "that is no torch.nn.Module"
        raise ConfigError(
            f"model.custom: expected {name} to be a torch.nn.Module with the methods "
            f"{', '.join(methods)}, got a {type(network).__name__} {fault}."
        )
    return network


def _first_observations(spaces: PolicySpaces, n: int) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.from_numpy(np.stack([some_value(leaf)] * n)) for _, leaf in leaves(spaces.observation)
    )
