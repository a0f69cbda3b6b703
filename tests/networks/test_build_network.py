"""Networks from spaces: what goes in, what comes out, what is shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from policy_server.config import ModelConfig
from policy_server.errors import ConfigError, UnsupportedSpaceError
from policy_server.networks import PolicyNetwork, build_network
from policy_server.networks.conv import default_filters, output_sizes
from policy_server.networks.flatten import VectorPart, some_value
from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space

REFERENCE = ((16, 4, 2), (32, 4, 2), (64, 4, 2), (128, 4, 2))
IMAGE = Box(0, 255, (12, 14, 3), "uint8")
MIXED = Dict(
    {
        "vector": Box(-1, 1, (3,)),
        "choice": Discrete(4, start=2),
        "choices": MultiDiscrete([[2, 3]], start=[[1, 0]]),
        "bits": MultiBinary(2),
        "bytes": Box(0, 255, (2,), "uint8"),
        "small bytes": Box(0, 3, (2,), "uint8"),
    }
)
VALUES = (
    np.array([[0.5, -1.0, 2.0]], np.float32),
    np.array([4]),
    np.array([[[2, 1]]]),
    np.array([[1, 0]], np.int8),
    np.array([[255, 51]], np.uint8),
    np.array([[3, 1]], np.uint8),
)
VECTOR = [0.5, -1, 2, 0, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0.2, 3, 1]


def build(observation: Space, action: Space = Discrete(3), **model: object) -> PolicyNetwork:  # noqa: B008
    torch.manual_seed(0)
    return build_network(PolicySpaces(observation, action), ModelConfig(**model))  # type: ignore[arg-type]


def tensors(*arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays)


def images(n: int, leaf: Box = IMAGE) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (n, *leaf.shape)).astype(leaf.dtype))


def test_leaves_become_one_vector_in_order() -> None:
    network = build(MIXED)
    encoded = network.policy_encoder(tensors(*VALUES))
    np.testing.assert_allclose(encoded.numpy()[0], VECTOR, rtol=1e-6)
    recipe = network.policy_encoder.recipe()
    mine = [part.numpy(value) for part, value in zip(recipe, VALUES, strict=True)]
    assert all(column.dtype == np.float32 for column in mine)
    np.testing.assert_array_equal(np.concatenate(mine, axis=1), encoded.numpy())


def test_float16_becomes_float32() -> None:
    part = VectorPart(Box(-1, 1, (2,), "float16"))
    assert part(torch.ones(1, 2, dtype=torch.float16)).dtype == torch.float32


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ["tanh", "relu", "leaky_relu", "elu", "silu", "gelu"])
def test_policy_layers_compute_the_head(activation: str, layer_norm: bool) -> None:
    network = build(MIXED, hidden=(7, 5), activation=activation, layer_norm=layer_norm)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    plain = network.policy_layers()
    assert plain is not None
    x = torch.from_numpy(
        np.concatenate([p.numpy(v) for p, v in zip(plain.recipe, VALUES, strict=True)], axis=1)
    )
    functions = {
        "tanh": torch.tanh, "relu": torch.relu, "leaky_relu": nn.functional.leaky_relu,
        "elu": nn.functional.elu, "silu": nn.functional.silu, "gelu": nn.functional.gelu,
        "identity": lambda x: x,
    }  # fmt: skip
    for layer in plain.layers:
        x = x @ layer.weight.T + layer.bias
        if layer.layer_norm is not None:
            scale, shift, epsilon = layer.layer_norm
            x = (x - x.mean(1, keepdim=True)) / (
                x.var(1, correction=0, keepdim=True) + epsilon
            ).sqrt()
            x = x * scale + shift
        x = functions[layer.activation](x)
    assert [layer.activation for layer in plain.layers] == [activation, activation, "identity"]
    torch.testing.assert_close(x, network.policy(tensors(*VALUES)))


def test_policy_layers_see_later_updates() -> None:
    network = build(MIXED, hidden=())
    plain = network.policy_layers()
    assert plain is not None
    with torch.no_grad():
        network.policy_head.bias.fill_(5.0)
    assert (plain.layers[0].bias == 5.0).all()


def test_images_are_more_than_dense_layers() -> None:
    assert build(IMAGE).policy_layers() is None
    flat = build(IMAGE, conv_filters=()).policy_layers()
    assert flat is not None
    np.testing.assert_allclose(flat.recipe[0].numpy(images(1).numpy()).max(), 1.0, atol=0.02)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize(
    ("action", "logits", "reals"),
    [(Discrete(3), 3, 0), (MultiDiscrete([2, 4]), 6, 0), (MultiBinary(3), 6, 0), (Box(-1, 1, (2, 2)), 0, 4),
     (Dict({"a": Box(-1, 1, ()), "b": Discrete(5)}), 5, 1)],
)  # fmt: skip
def test_head_has_a_column_for_everything(
    action: Space, logits: int, reals: int, free: bool
) -> None:
    network = build(Box(-1, 1, (3,)), action, free_log_std=free, initial_log_std=-0.7)
    head, value = network((torch.randn(6, 3),))
    assert head.shape == (6, logits + reals * (1 if free else 2))
    assert value.shape == (6,)
    if not reals:
        assert network.log_std is None
    elif free:
        assert isinstance(network.log_std, nn.Parameter)
        assert network.log_std.tolist() == pytest.approx([-0.7] * reals)
        assert any(parameter is network.log_std for parameter in network.parameters())
    else:
        assert network.log_std is None
        assert head[:, -reals:].detach().numpy() == pytest.approx(-0.7, abs=0.1)


SHARING = [
    {},
    {"share_layers": True},
    {"share_conv": False},
    {"hidden": ()},
    {"hidden": (), "share_layers": True},
]


@pytest.mark.parametrize("model", SHARING)
@pytest.mark.parametrize("observation", [IMAGE, Dict({"i": IMAGE, "v": Box(-1, 1, (3,))})])
def test_forward_is_policy_and_value_at_once(observation: Space, model: dict[str, object]) -> None:
    network = build(observation, **model)
    obs = (images(5),) if isinstance(observation, Box) else (images(5), torch.randn(5, 3))
    head, value = network(obs)
    torch.testing.assert_close(network.policy(obs), head)
    torch.testing.assert_close(network.value(obs), value)


@pytest.mark.parametrize(
    ("model", "conv", "body"),
    [
        ({}, True, False),
        ({"share_layers": True}, True, True),
        ({"share_conv": False}, False, False),
    ],
)
def test_the_value_moves_exactly_what_is_shared(
    model: dict[str, object], conv: bool, body: bool
) -> None:
    network = build(IMAGE, **model)
    network.value((images(4),)).sum().backward()

    def moved(part: nn.Module) -> bool:
        return any(p.grad is not None and bool((p.grad != 0).any()) for p in part.parameters())

    assert moved(network.policy_encoder) is conv
    assert moved(network.policy_body) is body
    assert not moved(network.policy_head)
    assert moved(network.value_head)


def test_acting_computes_nothing_of_the_value() -> None:
    network = build(IMAGE, share_conv=False)
    called: list[str] = []
    for name, part in network.named_modules():
        part.register_forward_hook(lambda *_, name=name: called.append(name))
    network.policy((images(2),))
    assert called
    assert not [name for name in called if name.startswith("value")]


def test_the_value_encoder_of_vectors_is_not_doubled() -> None:
    network = build(Box(-1, 1, (3,)), share_conv=False)
    assert not hasattr(network, "value_encoder")


def test_first_weights_are_orthogonal_with_their_gains() -> None:
    network = build(Box(-1, 1, (20,)), hidden=(16,))
    for layer, gain in (
        (network.policy_body.layers[0], 2**0.5),
        (network.policy_head, 0.01),
        (network.value_head, 1.0),
    ):
        square = layer.weight @ layer.weight.T
        torch.testing.assert_close(square, torch.eye(len(square)) * gain**2, rtol=1e-4, atol=1e-5)
        assert (layer.bias == 0).all()


def test_the_reference_configuration_for_images() -> None:
    leaf = Box(0, 255, (64, 64, 4), "uint8")
    assert output_sizes(64, 64, REFERENCE) == [(s, s) for s in (64, 31, 14, 6, 2)]
    network = build(
        leaf,
        conv_filters=REFERENCE,
        hidden=(512, 256, 128),
        activation="leaky_relu",
        layer_norm=True,
    )
    assert network.policy_encoder.outputs == 2 * 2 * 128
    head, value = network((images(3, leaf),))
    assert head.shape == (3, 3)
    assert value.shape == (3,)


def test_bytes_are_scaled_and_floats_are_not() -> None:
    bytes_, floats = build(IMAGE), build(Box(0, 1, IMAGE.shape))
    torch.testing.assert_close(
        bytes_.policy((images(2),)), floats.policy((images(2).float() / 255,))
    )


def test_convolution_sees_height_width_channels() -> None:
    """The first output against a sum over the window written out."""
    network = build(IMAGE, conv_filters=((2, 3, 2),), conv_activation="relu", hidden=())
    conv = network.policy_encoder.parts[0].layers[0]
    image = images(1).float()[0] / 255
    features = network.policy_encoder((images(1),)).view(5, 6, 2)
    for y, x, c in ((0, 0, 0), (4, 5, 1), (2, 3, 0)):
        window = image[2 * y : 2 * y + 3, 2 * x : 2 * x + 3].permute(2, 0, 1)
        expected = torch.relu((window * conv.weight[c]).sum())
        torch.testing.assert_close(features[y, x, c], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 11, 12, 16, 35, 36, 64, 84, 200])
def test_default_filters_fit_every_image(side: int) -> None:
    network = build(Box(0, 255, (side, side + 3, 2), "uint8"), hidden=(4,))
    assert network.policy_encoder.outputs > 0
    assert bool(default_filters(side, side + 3)) == (side >= 3)


def test_filters_that_do_not_fit_are_refused_with_all_sizes() -> None:
    with pytest.raises(UnsupportedSpaceError, match=r"\(128, 4, 2\) expects at least 4x4 pixels, but observation\.eye has only 2x3 left there \(28x36 -> 13x17 -> 5x7 -> 2x3\)"):  # fmt: skip
        build(Dict({"eye": Box(0, 255, (28, 36, 1), "uint8")}), conv_filters=((16, 4, 2), (32, 4, 2), (64, 3, 2), (128, 4, 2)))  # fmt: skip


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            {"activation": "tan"},
            r"model\.activation: expected one of .*got 'tan'\. Did you mean 'tanh'",
        ),
        ({"conv_activation": "rel"}, r"model\.conv_activation: .*Did you mean 'relu'"),
        ({"hidden": (8, 0)}, r"model\.hidden: expected positive integers, got \(8, 0\)"),
        ({"conv_filters": ((8, 3),)}, r"model\.conv_filters: .*got \(8, 3\)"),
        (
            {"share_layers": True, "share_conv": False},
            r"share_layers=True with model\.share_conv=False",
        ),
    ],
)
def test_impossible_options_are_refused(model: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build(IMAGE, **model)


def test_nothing_to_see_or_do_is_refused() -> None:
    with pytest.raises(UnsupportedSpaceError, match="at least one number"):
        build(Box(-1, 1, (0,)))
    with pytest.raises(UnsupportedSpaceError, match="at least one choice or number"):
        build(Box(-1, 1, (1,)), Box(-1, 1, (0,)))
    with pytest.raises(UnsupportedSpaceError, match="needs discrete parts"):
        build_network(PolicySpaces(Box(-1, 1, (1,)), Box(-1, 1, (1,)), mask=True), ModelConfig())


@pytest.mark.parametrize("shared", [{}, {"share_layers": True}, {"share_conv": False}], ids=str)
def test_bfloat16_stays_in_front_of_the_heads(shared):
    """Float32 weights, heads, values and gradients, close to what full precision gives; no other
    way to run the network is offered."""
    spaces = PolicySpaces(Box(0, 255, (12, 12, 3), "uint8"), Discrete(4))
    torch.manual_seed(0)
    full = build_network(spaces, ModelConfig(**shared))
    half = build_network(spaces, ModelConfig(precision="bfloat16", **shared))
    half.load_state_dict(full.state_dict())
    obs = [torch.randint(0, 256, (5, 12, 12, 3), dtype=torch.uint8)]
    (head, value), (exact_head, exact_value) = half(obs), full(obs)
    assert head.dtype == value.dtype == torch.float32
    assert not torch.equal(value, exact_value)
    torch.testing.assert_close(head, exact_head, rtol=0.05, atol=0.02)
    torch.testing.assert_close(value, exact_value, rtol=0.05, atol=0.05)
    torch.testing.assert_close(half.policy(obs), head)
    torch.testing.assert_close(half.value(obs), value)
    (head.sum() + value.sum()).backward()
    (exact_head.sum() + exact_value.sum()).backward()
    for mine, exact in zip(half.parameters(), full.parameters(), strict=True):
        assert mine.dtype == mine.grad.dtype == torch.float32
        error = torch.linalg.vector_norm(mine.grad - exact.grad)
        assert error <= 0.05 * torch.linalg.vector_norm(exact.grad)
    plain = PolicySpaces(Box(-1, 1, (3,)), Discrete(4))
    assert build_network(plain, ModelConfig()).policy_layers() is not None
    assert build_network(plain, ModelConfig(precision="bfloat16")).policy_layers() is None


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (Box(5, 9, (2,), "int64"), [5, 5]),
        (Box(-9, -5, (2,), "int64"), [-5, -5]),
        (Box(-1, np.inf, (2,)), [0, 0]),
        (Discrete(3, start=-4), -4),
        (MultiDiscrete([2, 3], start=[1, 0]), [1, 0]),
        (MultiBinary(2), [0, 0]),
    ],
    ids=str,
)
def test_some_value_is_one_of_the_space(leaf, expected):
    value = some_value(leaf)
    assert value.dtype == leaf.dtype
    assert value.shape == tuple(leaf.shape)
    np.testing.assert_array_equal(value, expected)
