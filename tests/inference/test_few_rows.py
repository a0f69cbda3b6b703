"""The compiled forward pass: against torch in double precision, and row by row."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from policy_server.inference.few_rows import FewRows
from policy_server.inference.layer_places import NumpyLayer


def layers(sizes: list[int], activation: str, scale: float = 1.0) -> list[NumpyLayer]:
    torch.manual_seed(len(sizes))
    made = []
    for n_in, n_out in itertools.pairwise(sizes):
        last = len(made) == len(sizes) - 2
        weight = torch.randn(n_out, n_in) * scale / n_in**0.5
        bias = torch.randn(n_out)
        name = "identity" if last else activation
        made.append(NumpyLayer(weight.numpy(), bias.numpy(), name, None))
    return made


def in_double(parts: list[NumpyLayer], x: np.ndarray) -> np.ndarray:
    y = torch.from_numpy(x).double()
    for part in parts:
        weight, bias = torch.from_numpy(part.weight), torch.from_numpy(part.bias)
        y = y @ weight.double().T + bias.double()
        y = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda z: z}[part.activation](y)
    return y.numpy()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("sizes", [[1, 1], [3, 2], [8, 64, 64, 5], [6, 7, 9, 3, 2], [130, 200, 1]])
def test_numbers_are_those_of_the_formula(sizes, activation):
    parts = layers(sizes, activation, scale=2.0)
    x = np.random.default_rng(0).normal(0, 2, (9, sizes[0])).astype(np.float32)
    np.testing.assert_allclose(FewRows(parts)(x), in_double(parts, x), rtol=1e-5, atol=2e-5)


def test_tanh_is_exact_to_float32_everywhere():
    one = NumpyLayer(np.ones((1, 1), np.float32), np.zeros(1, np.float32), "tanh", None)
    edges = [0.0, -0.0, 1e-30, 9.0, 9.1, 9.2, 50.0, 1e12, 3e38]
    x = np.concatenate([np.linspace(-10, 10, 20001), edges]).astype(np.float32)[:, None]
    y = FewRows([one])(x)
    np.testing.assert_allclose(y, np.tanh(x.astype(np.float64)), rtol=5e-7, atol=0)
    assert abs(y).max() < 1 + 2e-7


def test_a_row_does_not_depend_on_its_company():
    few = FewRows(layers([8, 64, 64, 5], "tanh"))
    x = np.random.default_rng(1).normal(size=(12, 8)).astype(np.float32)
    alone = np.concatenate([few(x[i : i + 1]) for i in range(12)])
    np.testing.assert_array_equal(few(x), alone)
    assert len(np.unique(alone[:, 0])) == 12


def test_what_it_cannot_do_is_known_beforehand():
    parts = layers([4, 8, 2], "tanh")
    assert FewRows.fits(parts)
    assert not FewRows.fits([parts[0]._replace(activation="gelu"), parts[1]])
    norm = (torch.ones(8), torch.zeros(8), 1e-5)
    assert not FewRows.fits([parts[0]._replace(layer_norm=norm), parts[1]])
