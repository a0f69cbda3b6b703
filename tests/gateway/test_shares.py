"""How the lanes of several sessions share a synchronous batch."""

from __future__ import annotations

import pytest

from sim_clients.protocol import Actions, decode
from tests.gateway.wire import SPEC, Peer

LANES = 8


@pytest.mark.parametrize(("algorithm", "unroll"), [("R2D2", 80), ("DQN", 8), ("PPO", 8)])
def test_nobody_waits_while_a_batch_is_filled_together(world, algorithm, unroll):
    """Sessions of a lane each, whose unrolls are as long as the algorithm has them."""
    w = world(algorithm=algorithm)
    w.gateway.train(None)
    peers = [Peer(w, bytes([65 + i]), (SPEC._replace(lanes=1),)) for i in range(LANES)]
    for i, peer in enumerate(peers):
        peer.hello(run_id=bytes([i]) * 16)
    (auditor,) = w.auditors.values()
    auditor.audit = lambda batch: None  # these observations are not stamped
    ticks = 0
    while not auditor.batches:
        flags = b"\0" if ticks else b"\1"
        out = w.tick(*((peer.name, peer.frame(ticks + 1, flags=flags)) for peer in peers))
        ticks += 1
        if ticks <= unroll:
            assert sum(isinstance(decode(frame), Actions) for _, frame in out) == LANES, ticks
    assert ticks == unroll + 1, "the outcome of the last step comes with the next"
    assert auditor.batches[0].lengths.tolist() == [unroll] * LANES
