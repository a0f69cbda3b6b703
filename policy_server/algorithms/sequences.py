"""Steps as sequences that a network with a memory can be asked about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from policy_server.algorithms.observations import ObservationRows
from policy_server.networks.policy import ActingNetwork, Observations
from policy_server.networks.recurrent import Sequences
from policy_server.networks.snapshot import as_tensor
from policy_server.replay.sequences import DrawnSequences
from policy_server.types import Batch


class SequenceTable:
    """M sequences of rows, each within one episode.

    Attributes:
        starts, lengths: int64 `[M]`, first row and how many.
        stride: from a row to the next of the same sequence.
        state: `[M, S]`, of the memory before the first row.
    """

    def __init__(
        self, starts: torch.Tensor, lengths: torch.Tensor, stride: int, state: torch.Tensor
    ):
        self.starts, self.lengths, self.stride, self.state = starts, lengths, stride, state

    def __len__(self) -> int:
        return len(self.starts)

    def read(
        self,
        obs_at: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
        which: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Sequences]:
        """Some sequences (None: all) padded to the longest of them. `obs_at`: rows int64 `[n]` on
        the state's device -> leaves. Returns the rows of their steps, int64 `[N]` in ascending
        order on the CPU, and the sequences, with an answer for each of these rows."""
        starts, lengths, state = self.starts, self.lengths, self.state
        if which is not None:
            starts, lengths, state = starts[which], lengths[which], state[which.to(state.device)]
        step = torch.arange(int(lengths.max()))[:, None]  # [L, 1]
        inside = step < lengths  # [L, M]
        rows = torch.where(inside, starts + step * self.stride, starts).reshape(-1)
        places = inside.reshape(-1).nonzero().squeeze(1)
        order = rows[places].argsort()
        places = places[order]
        obs = obs_at(rows.to(state.device))
        return rows[places], Sequences(obs, state, places.to(state.device))


class SequenceNetwork(Protocol):
    """Values of actions in sequences: `networks.recurrent_q.RecurrentQNetwork` or
    `networks.group_q.GroupQNetwork`."""

    def warm_up(self, obs: Observations, state: torch.Tensor) -> torch.Tensor: ...
    def values(self, obs: Observations, state: torch.Tensor) -> torch.Tensor: ...


def pieces(batch: Batch, longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the sequences of a batch begin: t and b, int64 `[M]` each, and their lengths. A new one
    begins with each unroll, with each episode, and after `longest` steps."""
    found = [
        (t, b, min(longest, end - t))
        for b, start, end in batch.stretches()
        for t in range(start, end, longest)
    ]
    columns = np.array(found, np.int64).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2]


@torch.no_grad()
def states_before(
    network: ActingNetwork, obs: ObservationRows, batch: Batch, t: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """What the network would have in memory before steps t of columns b, int64 `[m]` each, with the
    states that came with the unrolls: `[m, S]`."""
    if not network.state_size:
        return np.zeros((len(t), 0), np.float32)
    assert batch.state is not None, "the gateway sends states where there is a memory"
    lanes = batch.rewards.shape[1]
    rows = torch.from_numpy(t * lanes + b)
    state = as_tensor(batch.state).to(obs.device, copy=True)
    found = torch.zeros(len(t), state.shape[1], device=obs.device)
    ended, valid = as_tensor(batch.terminated | batch.truncated), as_tensor(batch.valid)
    for time in range(int(t.max()) + 1 if len(t) else 0):
        asked = (rows // lanes == time).nonzero().squeeze(1)
        found[asked] = state[rows[asked] % lanes]
        active = valid[time].nonzero().squeeze(1)
        _, state[active] = network.step(obs[(time * lanes + active).to(obs.device)], state[active])
        state[ended[time] & valid[time]] = 0.0
    return found.cpu().numpy()


def sequence_values(network: SequenceNetwork, drawn: DrawnSequences, burn_in: int) -> torch.Tensor:
    """Values of all actions behind the burn-in, `[L + 1, n, W]`; no gradient goes back into it."""
    state = drawn.state
    if burn_in:
        with torch.no_grad():
            warm = network.warm_up([leaf[:burn_in] for leaf in drawn.obs], state)
        state = torch.where(drawn.burned[:, None], warm, state)
    return network.values([leaf[burn_in:] for leaf in drawn.obs], state)
