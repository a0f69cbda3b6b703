"""A batch on the learner's device, step by step, and what a network says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from policy_server.algorithms.observations import ObservationRows
from policy_server.algorithms.ops.gae import gae
from policy_server.algorithms.rewards import shaped
from policy_server.algorithms.sequences import SequenceTable, pieces
from policy_server.networks import PolicyNetwork
from policy_server.networks.recurrent import RecurrentNetwork, Sequences
from policy_server.networks.snapshot import as_tensor
from policy_server.types import Batch


class Outlook(NamedTuple):
    """What a network says of a batch; carries no gradient. Where nobody asked it is NaN, so that
    reading it shows.

    Attributes:
        heads: `[N, H]`, of the valid steps, on the device.
        values: `[T+1, B]`, of all observations in time, bootstrap included.
        final_values: `[T, B]`, of the true final observations of truncated steps.
        sequences: of a network with a memory; None: it has none.
    """

    heads: torch.Tensor
    values: torch.Tensor
    final_values: torch.Tensor
    sequences: SequenceTable | None = None


Inputs = tuple[torch.Tensor, ...] | Sequences
"""What a network is asked about: observations, or sequences of them where it has a memory."""


class Trajectories:
    """B unrolls of up to T steps, N of them valid.

    Columns by time are `[T, B]` on the CPU; columns by step are `[N, ...]` on the device, in the
    order of time, lane after lane.

    Attributes:
        obs: all observations; a row is t * B + b.
        rows: int64 `[N]`, of the valid steps, on the device.
        rewards: by time, scaled and clipped.
        terminated, truncated, valid: bool, by time.
        mask: by step, `[N, W]`; W = 0 where there are no masks.
        categories, reals, logp: by step; logp is of the policy that acted.
    """

    def __init__(
        self,
        batch: Batch,
        device: torch.device,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
    ):
        self.device = device
        self._batch = batch
        self.obs = ObservationRows.of_batch(batch, device)
        self._finals = ObservationRows(batch.final_obs, device)
        self._final_index = as_tensor(batch.final_index)
        steps, lanes = batch.rewards.shape
        self.shape = steps, lanes
        self.valid = as_tensor(batch.valid)
        self._flat = self.valid.reshape(-1).nonzero().squeeze(1)  # [N]
        self.rows = self._flat.to(device)
        self.terminated, self.truncated = as_tensor(batch.terminated), as_tensor(batch.truncated)
        ended = (self.terminated | self.truncated).reshape(-1)
        last = torch.arange(lanes) + lanes * (as_tensor(batch.lengths) - 1)  # [B]
        self._bootstrap = last[~ended[last]] + lanes
        self.rewards = as_tensor(shaped(batch.rewards, reward_scale, reward_clip))
        masks = torch.zeros(steps, lanes, 0) if batch.masks is None else as_tensor(batch.masks)
        self.mask, self.logp = self.by_step(masks), self.by_step(as_tensor(batch.logp))
        self.categories = self.by_step(as_tensor(batch.categories))
        self.reals = self.by_step(as_tensor(batch.reals))

    def by_step(self, column: torch.Tensor) -> torch.Tensor:
        """`[T, B, ...]` -> `[N, ...]` on the device."""
        return column.flatten(0, 1).index_select(0, self._flat).to(self.device)

    def by_time(self, column: torch.Tensor) -> torch.Tensor:
        """`[N]` -> `[T, B]` on the CPU; 0 in padding."""
        steps, lanes = self.shape
        placed = torch.zeros(steps * lanes, dtype=column.dtype)
        placed[self._flat] = column.cpu()
        return placed.view(steps, lanes)

    def outlook(self, network: PolicyNetwork) -> Outlook:
        """Asks the network about every step and whatever lies behind the last ones."""
        if isinstance(network, RecurrentNetwork):
            return self._remembered(network)
        steps, lanes = self.shape
        values = torch.full(((steps + 1) * lanes,), torch.nan)
        final_values = torch.full((steps, lanes), torch.nan)
        both = self.obs.evaluate(self.rows, lambda o: torch.cat(_columns(*network(o)), dim=1))
        heads, values[self._flat] = both[:, :-1], both[:, -1].cpu()
        behind = self._bootstrap.to(self.device)
        values[self._bootstrap] = self.obs.evaluate(behind, network.value).cpu()
        t, b = self._final_index.unbind(1)
        all_finals = torch.arange(len(t), device=self.device)
        final_values[t, b] = self._finals.evaluate(all_finals, network.value).cpu()
        return Outlook(heads, values.view(steps + 1, lanes), final_values)

    @torch.no_grad()
    def _remembered(self, network: RecurrentNetwork) -> Outlook:
        """The same step by step, for a network with a memory, from the states that came with the
        unrolls on."""
        batch, (steps, lanes) = self._batch, self.shape
        assert batch.state is not None, "the gateway sends states where there is a memory"
        state = as_tensor(batch.state).to(self.device, copy=True)
        lengths = as_tensor(batch.lengths)
        ended = self.terminated | self.truncated
        asked = torch.cat([self.valid, torch.zeros(1, lanes, dtype=torch.bool)]).reshape(-1)
        asked[self._bootstrap] = True
        rows = asked.nonzero().squeeze(1).to(self.device)
        x = torch.zeros(len(asked), network.body.outputs, device=self.device)
        x[rows] = self.obs.evaluate(rows, network.features)
        final_rows = torch.arange(len(self._final_index), device=self.device)
        final_x = self._finals.evaluate(final_rows, network.features)

        t0, b0, sizes = (as_tensor(column) for column in pieces(batch, network.sequence_length))
        states = torch.zeros(len(t0), network.state_size, device=self.device)
        heads = torch.zeros(len(asked), network.policy_head.out_features, device=self.device)
        values = torch.full((len(asked),), torch.nan)
        final_values = torch.full((steps, lanes), torch.nan)
        for t in range(steps + 1):
            beginning = (t0 == t).nonzero().squeeze(1)
            states[beginning] = state[b0[beginning]]
            active = asked.view(steps + 1, lanes)[t].nonzero().squeeze(1)
            if len(active) == 0:
                break
            here = t * lanes + active
            y, state[active] = network.memory.step(x[here], state[active])
            heads[here], some = network.answer(y)
            values[here] = some.cpu()
            if t == steps:
                break
            final = (self._final_index[:, 0] == t).nonzero().squeeze(1)
            if len(final):
                b = self._final_index[final, 1]
                y, _ = network.memory.step(final_x[final], state[b])
                final_values[t, b] = network.answer(y)[1].cpu()
            state[ended[t] & (t < lengths)] = 0.0
        table = SequenceTable(t0 * lanes + b0, sizes, lanes, states)
        return Outlook(heads[self.rows], values.view(steps + 1, lanes), final_values, table)

    def values(
        self, value: Callable[[tuple[torch.Tensor, ...]], torch.Tensor], kinds: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a value function says that is a network of its own, `[n, kinds]` of n observations:
        as `Outlook.values` and `final_values`, but `[T+1, B, kinds]` and `[T, B, kinds]`."""
        steps, lanes = self.shape
        values = torch.full(((steps + 1) * lanes, kinds), torch.nan)
        final_values = torch.full((steps, lanes, kinds), torch.nan)
        asked = torch.cat([self._flat, self._bootstrap])
        found = self.obs.evaluate(asked.to(self.device), value)
        values[asked] = found.reshape(-1, kinds).cpu()
        t, b = self._final_index.unbind(1)
        found = self._finals.evaluate(torch.arange(len(t), device=self.device), value)
        final_values[t, b] = found.reshape(-1, kinds).cpu()
        return values.view(steps + 1, lanes, kinds), final_values

    def inputs(self, outlook: Outlook) -> Inputs:
        """What to ask a network for all valid steps, in their order."""
        if outlook.sequences is None:
            return self.obs[self.rows]
        return outlook.sequences.read(self.obs.__getitem__)[1]

    def minibatches(
        self, outlook: Outlook, size: int, generator: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, Inputs]]:
        """All valid steps once, shuffled, in parts as equal as can be of at most `size`: numbers of
        steps, int64 `[n]` on the device, and what to ask a network for them. With a memory whole
        sequences are shuffled, and parts are of about `size`."""
        parts = -(-len(self.rows) // size)
        if outlook.sequences is None:
            order = torch.randperm(len(self.rows), generator=generator).to(self.device)
            for chosen in order.tensor_split(parts):
                yield chosen, self.obs[self.rows[chosen]]
            return
        number = torch.zeros(int(self._flat[-1]) + 1, dtype=torch.int64)
        number[self._flat] = torch.arange(len(self._flat))
        some = torch.randperm(len(outlook.sequences), generator=generator)
        for which in some.tensor_split(min(parts, len(some))):
            rows, asked = outlook.sequences.read(self.obs.__getitem__, which)
            yield number[rows].to(self.device), asked

    def advantages(
        self, outlook: Outlook, gamma: float, lambda_: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(advantages, returns) of `ops.gae.gae`, by step, `[N]`."""
        advantages, returns = gae(
            self.rewards, outlook.values, outlook.final_values, self.terminated, self.truncated,
            self.valid, gamma=gamma, lambda_=lambda_,
        )  # fmt: skip
        return self.by_step(advantages), self.by_step(returns)


def _columns(head: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return head, value.unsqueeze(1)
