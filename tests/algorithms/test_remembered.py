"""What learners make of unrolls where the network has a memory, against one lane at a time."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from handmade import random_batch

from policy_server.algorithms import sequences, trajectories
from policy_server.algorithms.episodes import EpisodeAssembler
from policy_server.algorithms.pg import PG, PGTraining
from policy_server.algorithms.sequences import SequenceTable
from policy_server.algorithms.trajectories import Trajectories
from policy_server.config import ModelConfig
from policy_server.networks import build_network
from policy_server.networks.recurrent import RecurrentNetwork
from policy_server.types import Batch, PolicySpaces
from sim_clients.protocol.spaces import Box, Discrete
from tests.broken import broken

SPACES = PolicySpaces(Box(-9, 9, (3,)), Discrete(4))
STEPS, LANES = 9, 5
LENGTHS = np.array([9, 3, 9, 1, 6])
CPU = torch.device("cpu")


def network(memory: str) -> RecurrentNetwork:
    torch.manual_seed(0)
    model = ModelConfig(hidden=(8,), memory=memory, memory_size=4, memory_steps=3)
    made = build_network(SPACES, model)
    assert isinstance(made, RecurrentNetwork)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def batch(made: RecurrentNetwork) -> Batch:
    plain = build_network(SPACES, ModelConfig(hidden=(8,)))
    played = random_batch(plain, SPACES, STEPS, LANES, 3, LENGTHS)
    # Lane 0 is in the middle of an episode and remembers something, the others begin.
    state = np.zeros((LANES, made.state_size), np.float32)
    obs = torch.randn(2, 1, 3)
    for one in obs:
        _, left = made.step((one,), torch.from_numpy(state[:1]))
        state[:1] = left.detach().numpy()
    return dataclasses.replace(played, state=state)


class OneByOne:
    """Lane by lane and step by step, with nothing but `step` and `answer`."""

    def __init__(self, made: RecurrentNetwork, played: Batch):
        steps, lanes = played.rewards.shape
        self.heads: dict[tuple[int, int], torch.Tensor] = {}
        self.values = torch.full((steps + 1, lanes), torch.nan)
        self.final_values = torch.full((steps, lanes), torch.nan)
        assert played.state is not None
        for b in range(lanes):
            state = torch.from_numpy(played.state[b : b + 1])
            for t in range(int(played.lengths[b])):
                y, state = self._step(made, played.obs[0][t, b], state)
                head, value = made.answer(y)
                self.heads[t, b], self.values[t, b] = head[0], value[0]
                if played.truncated[t, b]:
                    (row,) = np.flatnonzero((played.final_index == (t, b)).all(1))
                    y, _ = self._step(made, played.final_obs[0][row], state)
                    self.final_values[t, b] = made.answer(y)[1][0]
                if played.terminated[t, b] or played.truncated[t, b]:
                    state = torch.zeros_like(state)
            last = int(played.lengths[b])
            if not (played.terminated[last - 1, b] or played.truncated[last - 1, b]):
                y, _ = self._step(made, played.obs[0][last, b], state)
                self.values[last, b] = made.answer(y)[1][0]

    @staticmethod
    def _step(
        made: RecurrentNetwork, obs: np.ndarray, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = made.features((torch.from_numpy(obs[None]),))
        return made.memory.step(x, state)

    def by_step(self) -> torch.Tensor:
        return torch.stack([self.heads[key] for key in sorted(self.heads)])


@torch.no_grad()
def agrees(made: RecurrentNetwork, played: Batch, class_: type[Trajectories]) -> bool:
    wanted = OneByOne(made, played)
    steps = class_(played, CPU)
    outlook = steps.outlook(made)
    again, values = made(steps.inputs(outlook))
    valid = steps.valid
    pairs = [
        (outlook.heads, wanted.by_step()),
        (outlook.values, wanted.values),
        (outlook.final_values, wanted.final_values),
        (again, wanted.by_step()),
        (values, wanted.values[:-1][valid]),
    ]
    return all(torch.allclose(a, b, rtol=0, atol=1e-5, equal_nan=True) for a, b in pairs)


@pytest.mark.parametrize("memory", ["lstm", "attention"])
def test_learners_see_what_one_lane_at_a_time_sees(memory: str) -> None:
    made = network(memory)
    played = batch(made)
    assert played.truncated[played.valid].any()
    assert played.terminated[played.valid].any()
    assert agrees(made, played, Trajectories)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("state[ended[t] & (t < lengths)] = 0.0", "pass"),
        ("network.memory.step(final_x[final], state[b])", "network.memory.step(final_x[final], 0 * state[b])"),
        ("states[beginning] = state[b0[beginning]]", "pass"),
        ("as_tensor(batch.state).to(self.device, copy=True)", "0 * as_tensor(batch.state)"),
    ],
)  # fmt: skip
def test_a_mistake_would_show(line: str, instead: str) -> None:
    made = network("lstm")
    # The words of a copy are not those of the class that others import; only this test uses it.
    class_ = broken(trajectories, line, instead)["Trajectories"]
    assert not agrees(made, batch(made), class_)


def test_sequences_begin_with_unrolls_episodes_and_after_so_many_steps() -> None:
    made = network("lstm")
    played = batch(made)
    t, b, lengths = sequences.pieces(played, 3)
    ended = played.terminated | played.truncated
    seen = np.zeros((STEPS, LANES), int)
    for start, lane, length in zip(t, b, lengths, strict=True):
        assert 1 <= length <= 3
        seen[start : start + length, lane] += 1
        assert not ended[start : start + length - 1, lane].any()
    np.testing.assert_array_equal(seen, played.valid)
    assert "longest" in inspect.getsource(sequences.pieces)


@torch.no_grad()
def test_minibatches_are_all_steps_once_and_say_the_same() -> None:
    made = network("lstm")
    steps = Trajectories(batch(made), CPU)
    outlook = steps.outlook(made)
    chosen = []
    for some, asked in steps.minibatches(outlook, 6, torch.Generator().manual_seed(0)):
        heads, _ = made(asked)
        torch.testing.assert_close(heads, outlook.heads[some], rtol=0, atol=1e-5)
        chosen.append(some)
    assert len(chosen) > 2
    assert sorted(torch.cat(chosen).tolist()) == list(range(len(outlook.heads)))


def test_gradients_stay_within_their_sequence() -> None:
    made = network("lstm")
    x = torch.randn(6, 3, requires_grad=True)
    table = SequenceTable(
        torch.tensor([0, 3]), torch.tensor([3, 3]), 1, torch.zeros(2, made.state_size)
    )
    rows, asked = table.read(lambda at: (x[at],))
    heads, _ = made(asked)
    heads[rows.tolist().index(4)].sum().backward()
    assert x.grad is not None
    touched = (x.grad != 0).any(1).tolist()
    assert touched == [False, False, False, True, True, False]


def test_reinforce_goes_through_whole_episodes() -> None:
    """Heads of an episode that came in two batches are those of its steps one after another."""
    made = network("lstm")
    plain = build_network(SPACES, ModelConfig(hidden=(8,)))
    lanes = 2
    first, second = (random_batch(plain, SPACES, 4, lanes, seed, endings=0.0) for seed in (1, 2))
    second.terminated[-1] = True
    state = np.zeros((lanes, made.state_size), np.float32)
    for part, start in ((first, 0), (second, 4)):
        part.first_t[:] = start
        part.state = state
    assembler = EpisodeAssembler(0.9)
    assert assembler.add(first, first.rewards) is None
    futures = assembler.add(second, second.rewards)
    assert futures is not None
    assert futures.lengths.tolist() == [8, 8]
    training = PGTraining(lr=1e-3)
    model = ModelConfig(hidden=(8,), memory="lstm", memory_size=4, memory_steps=3)
    page = PG(SPACES, model, training, seed=0, device=CPU)
    page.network.load_state_dict(made.state_dict())
    with torch.no_grad():
        heads = page._heads(futures)
        for lane in range(lanes):
            now = torch.zeros(1, made.state_size)
            for t, obs in enumerate([*first.obs[0][:4, lane], *second.obs[0][:4, lane]]):
                head, now = made.step((torch.from_numpy(obs[None]),), now)
                torch.testing.assert_close(heads[lane * 8 + t], head[0], rtol=0, atol=1e-5)
