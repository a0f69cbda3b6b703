"""Connections that break in mid-flight lose and double nothing."""

from __future__ import annotations

import threading

from tests.integration.live import Player, RoughProxy, live


def test_cut_connections_lose_and_double_nothing():
    # Simulators on this machine would go past the proxy.
    server = {"seed": 1, "local_sockets": False}
    with live(collection={"mode": "async", "fragment_length": 8}, server=server) as world:
        proxy = RoughProxy(world.address, seed=1)
        try:
            auditor_of(world, proxy)
        finally:
            proxy.close()


def auditor_of(world, proxy):
    first = Player(0, proxy.address, None, retry_s=0.05)
    first.client.connect()
    auditor = world.auditors["default_policy"]
    first.auditor = auditor
    world.on_loop(lambda: world.gateway.train(None))
    players = [first, Player(1, proxy.address, auditor, retry_s=0.05)]
    errors = []

    def play(player):
        try:
            player.play(400)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=play, args=(p,)) for p in players]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not errors
    proxy.gentle = True
    assert proxy.cuts >= 10
    for player in players:
        assert player.client.stats.reconnects + player.client.stats.retries > 0
    report = world.on_loop(world.gateway.report)
    accounting = report["policies"]["default_policy"]["accounting"]
    assert accounting["balance"] == 0
    # Every step arrived once: what was accepted is what was played.
    assert accounting["accepted"] == sum(p.steps for p in players)
    assert accounting["dropped"]["interrupted"] == 0
    assert accounting["trained"] > 1000
    for player in players:
        player.client.close()
