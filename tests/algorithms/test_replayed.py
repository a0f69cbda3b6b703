"""What is replayed, around the edges: nothing to draw from, and stored buffers that do not fit."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
import torch
from handmade import random_batch
from test_every_page import MODEL, OPTIONS, in_turn, make, spaces

from policy_server import algorithms
from policy_server.errors import CheckpointError
from policy_server.networks import build_network
from policy_server.types import Batch, PolicySpaces

REPLAYING = [name for name in OPTIONS if "buffer_size" in OPTIONS[name]]
MASKED = [name for name in REPLAYING if algorithms.training_class(name).supports.mask]


def some_batches(of: PolicySpaces, made: Any, n: int) -> list[Batch]:
    torch.manual_seed(0)
    network = build_network(of, MODEL)
    state = np.zeros((4, made.network.state_size), np.float32)
    return in_turn(
        [dataclasses.replace(random_batch(network, of, 5, 4, s), state=state) for s in range(n)]
    )


def for_masks(name: str) -> Any:
    one = dataclasses.replace(spaces(name), mask=True)
    training, page = algorithms.get(name)
    return one, page(one, MODEL, training(**OPTIONS[name]), seed=0, device=torch.device("cpu"))


def all_truncated(batch: Batch) -> Batch:
    """The same steps, each an episode of its own that was cut off."""
    index = np.argwhere(np.ones_like(batch.truncated))
    finals = tuple(leaf[1:].reshape(-1, *leaf.shape[2:]) for leaf in batch.obs)
    return dataclasses.replace(
        batch, truncated=np.ones_like(batch.truncated), terminated=np.zeros_like(batch.terminated),
        final_index=index, final_obs=finals,
    )  # fmt: skip


@pytest.mark.parametrize("name", MASKED)
def test_nothing_to_draw_is_said_once_and_waited_out(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    of, made = for_masks(name)
    before = made.state().tensors
    batches = some_batches(of, made, 8)
    with caplog.at_level(logging.WARNING):
        for batch in batches[:5]:
            made.update(all_truncated(batch), 0)
    after = made.state().tensors
    learned = [k for k in before if not k.startswith("replay") and ".noise_" not in k]
    assert [k for k in learned if not np.array_equal(before[k], after[k])] == []
    assert [r.getMessage() for r in caplog.records if "Replay: expected" in r.getMessage()] != []
    assert len(caplog.records) == 1
    assert made.replayed.metrics["samples_per_insert"] == 0.0
    for batch in batches[5:]:  # now there is something
        made.update(batch, 0)
    assert not all(np.array_equal(before[k], made.state().tensors[k]) for k in learned)


@pytest.mark.parametrize("name", MASKED)
def test_what_could_not_be_drawn_is_forgiven(name: str) -> None:
    of, made = for_masks(name)
    for batch in some_batches(of, made, 6):
        metrics = made.update(all_truncated(batch), 0)
    forgiven, owed = metrics["samples_forgiven"], metrics["samples_owed"]
    if metrics["replay_size"]:
        inserted = 6 * 20
        assert forgiven + owed == 2.0 * (inserted - 30)
        assert owed < 8 <= forgiven
    else:  # sequences without steps to learn from are not kept at all
        assert forgiven == owed == 0.0


def test_one_short_batch_is_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    of, made = for_masks("R2D2")
    with caplog.at_level(logging.WARNING):
        first, second = some_batches(of, made, 2)
        made.update(first, 0)
        made.update(all_truncated(second), 0)
    assert not caplog.records


def stored(name: str, **options: Any) -> Any:
    made = make(name, 0, **options)
    for batch in some_batches(spaces(name), made, 3):
        made.update(batch, 0)
    return made.state()


@pytest.mark.parametrize(
    ("name", "then", "now", "words"),
    [
        (
            "DQN",
            {"prioritized": False},
            {"prioritized": True},
            "no priorities and training.prioritized = true",
        ),
        ("R2D2", {"prioritized": False}, {"prioritized": True}, "no priorities"),
        ("DQN", {}, {"buffer_size": 500}, "400 rows and training.buffer_size = 500"),
        ("R2D2", {}, {"buffer_size": 500}, "training.sequence_length"),
        ("R2D2", {}, {"burn_in": 1}, "training.burn_in"),
    ],
)
def test_a_stored_buffer_that_does_not_fit_is_refused_and_may_be_left_out(
    name: str, then: dict[str, Any], now: dict[str, Any], words: str
) -> None:
    state = stored(name, **then)
    with pytest.raises(CheckpointError, match=words) as error:
        make(name, 1, **now).load(state)
    assert "training.save_replay = false" in str(error.value)
    without = make(name, 1, save_replay=False, **now)
    without.load(state)
    for batch in some_batches(spaces(name), without, 3):
        without.update(batch, 0)


def test_priorities_may_be_left_out() -> None:
    make("DQN", 1).load(stored("DQN", prioritized=True))


def test_a_buffer_in_parts_is_not_one_buffer() -> None:
    state = stored("ApexDQN")
    replay = dict(state.data["replay"], buffer={"parts": [{}, {}], "rng": {}})
    with pytest.raises(
        CheckpointError, match=r"2 parts and training.replay_shards = 0.*save_replay"
    ):
        make("ApexDQN", 1).load(dataclasses.replace(state, data={**state.data, "replay": replay}))


@pytest.mark.parametrize("name", [n for n in MASKED if "sequence_length" in OPTIONS[n]])
def test_sequences_of_which_there_are_none_yet_are_stored_too(name: str) -> None:
    """Room for them is there, and nothing in it."""
    of, made = for_masks(name)
    batches = some_batches(of, made, 6)
    made.update(all_truncated(batches[0]), 0)
    _, again = for_masks(name)
    again.load(made.state())
    for batch in batches[1:]:
        metrics = made.update(batch, 0)
        assert metrics == again.update(batch, 0)
    assert metrics["replay_size"] > 0
