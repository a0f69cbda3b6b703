"""From spaces to a network."""

from __future__ import annotations

from policy_server.config import ModelConfig
from policy_server.errors import ConfigError, UnsupportedSpaceError
from policy_server.networks.custom import CustomNetwork
from policy_server.networks.mlp import make_activation
from policy_server.networks.policy import PolicyNetwork, StandardNetwork
from policy_server.networks.recurrent import RecurrentNetwork
from policy_server.types import ActionLayout, PolicySpaces


def build_network(spaces: PolicySpaces, model: ModelConfig) -> PolicyNetwork:
    """A network that sees `spaces.observation` (as preprocessed) and acts in `spaces.action`.

    Its first weights come from torch's global generator: seed that to repeat them.

    Raises:
        ConfigError: an option of `model` is impossible.
        UnsupportedSpaceError: the filters do not fit an image, or there is nothing to see or do.
    """
    layout = ActionLayout(spaces.action)
    if layout.mask_width + layout.reals == 0:
        raise UnsupportedSpaceError(
            "Action space: expected at least one choice or number, got none."
        )
    if spaces.mask and layout.mask_width == 0:
        raise UnsupportedSpaceError(
            "Action space: an action mask needs discrete parts, but all of it is Box: "
            "switch the mask off."
        )
    if model.custom is not None:
        return CustomNetwork(spaces, model)
    _check(model)
    if model.memory != "none":
        return RecurrentNetwork(spaces, model)
    return StandardNetwork(spaces, model)


def _check(model: ModelConfig) -> None:
    make_activation(model.activation)
    make_activation(model.conv_activation or model.activation, "model.conv_activation")
    if not all(isinstance(units, int) and units > 0 for units in model.hidden):
        raise ConfigError(f"model.hidden: expected positive integers, got {model.hidden}.")
    for filter_ in model.conv_filters or ():
        if len(filter_) != 3 or not all(isinstance(n, int) and n > 0 for n in filter_):
            raise ConfigError(
                "model.conv_filters: expected (channels, kernel, stride), all positive "
                f"integers, for each convolution, got {filter_}."
            )
    if model.share_layers and not model.share_conv:
        raise ConfigError(
            "model.share_layers=True with model.share_conv=False: hidden layers cannot be shared "
            "behind two encoders; set share_conv=True or share_layers=False."
        )
