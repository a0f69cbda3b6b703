"""Memories: whole sequences say what single steps say, and look no further than they may."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policy_server.config import ModelConfig
from policy_server.networks.attention import AttentionMemory
from policy_server.networks.lstm import LSTMMemory
from policy_server.networks.memory import Memory

INPUTS, LANES, STEPS, REACH = 3, 4, 11, 5


def memory(kind: str) -> Memory:
    torch.manual_seed(0)
    made: Memory
    if kind.startswith("lstm"):
        made = LSTMMemory(INPUTS, 6, int(kind[-1]))
    else:
        made = AttentionMemory(INPUTS, 6, int(kind[-1]), heads=2, reach=REACH)
    with torch.no_grad():  # nothing that is zero at first may hide a mistake
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.double()


def inputs() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(STEPS, LANES, INPUTS)))


def stepwise(made: Memory, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, ...]:
    outputs = []
    for row in x:
        y, state = made.step(row, state)
        outputs.append(y)
    return torch.stack(outputs), state


KINDS = pytest.mark.parametrize("kind", ["lstm1", "lstm2", "attention1", "attention2"])


@KINDS
@pytest.mark.parametrize("first", [0, 1, 3, 8])
def test_a_sequence_says_what_its_steps_say(kind: str, first: int) -> None:
    """From any state that so many steps before have left."""
    made, x = memory(kind), inputs()
    start = torch.zeros(LANES, made.state_size, dtype=torch.float64)
    _, state = stepwise(made, x[:first], start) if first else (None, start)
    wanted, _ = stepwise(made, x[first:], state)
    got = made.unroll(x[first:], state)
    assert got.shape == (STEPS - first, LANES, 6)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


@KINDS
def test_the_state_matters_and_the_past_does_not_see_the_future(kind: str) -> None:
    made, x = memory(kind), inputs()
    start = torch.zeros(LANES, made.state_size, dtype=torch.float64)
    whole = made.unroll(x, start)
    assert (made.unroll(x[1:], start) - whole[1:]).abs().max() > 1e-3
    later = x.clone()
    later[6:] += 1.0
    changed = (made.unroll(later, start) - whole).abs().amax((1, 2))
    assert changed[:6].max() == 0
    assert changed[6:].min() > 1e-3


def test_attention_looks_back_so_far_and_no_further() -> None:
    made, x = memory("attention1"), inputs()
    start = torch.zeros(LANES, made.state_size, dtype=torch.float64)
    other = x.clone()
    other[0] += 1.0
    changed = (made.unroll(other, start) - made.unroll(x, start)).abs().amax((1, 2))
    assert changed[: REACH + 1].min() > 1e-4
    assert changed[REACH + 1 :].max() == 0


def test_an_empty_attention_memory_says_nothing() -> None:
    """Its zeros are not inputs of before: the first step is answered by itself alone."""
    made, x = memory("attention1"), inputs()
    state = torch.zeros(LANES, made.state_size, dtype=torch.float64)
    one, _ = made.step(x[0], state)
    state[:, :-1] = 7.0  # but still none of them counts
    torch.testing.assert_close(made.step(x[0], state)[0], one, rtol=0, atol=1e-12)


def test_settings_that_make_no_sense_are_refused() -> None:
    from policy_server import A2CConfig, DQNConfig
    from policy_server.errors import ConfigError

    for options, words in [
        ({"memory": "gru"}, "expected one of none, lstm, attention, got 'gru'"),
        ({"memory": "lstm", "memory_size": 0}, "model.memory_size: expected at least 1, got 0"),
        (
            {"memory": "attention", "memory_size": 10, "memory_heads": 4},
            "model.memory_size = 10 and model.memory_heads = 4",
        ),
        ({"memory": "lstm", "precision": "bfloat16"}, "model.precision = 'bfloat16'"),
        ({"memory": "lstm", "custom": "a:B"}, "model.custom = 'a:B'"),
    ]:
        with pytest.raises(ConfigError, match=words):
            A2CConfig().environment("CartPole-v1").model(**options).settings()
    with pytest.raises(ConfigError, match="'lstm' with DQN: expected an algorithm"):
        DQNConfig().environment("CartPole-v1").model(memory="lstm").settings()
    assert ModelConfig().memory == "none"
