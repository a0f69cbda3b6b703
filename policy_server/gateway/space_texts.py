"""Spaces in the words of a refusal."""

from __future__ import annotations

from policy_server.types import PolicySpaces
from sim_clients.protocol.spaces import Space, leaves


def space_text(spaces: PolicySpaces) -> str:
    """What is seen -> what is done, not too long."""
    mask = " with a mask" if spaces.mask else ""
    return f"{str(spaces.observation)[:160]} -> {str(spaces.action)[:80]}{mask}"


def mismatch_text(ours: PolicySpaces, theirs: PolicySpaces) -> str:
    """Both of them, and where they differ if they look alike."""
    our, their = space_text(ours), space_text(theirs)
    return f"{our}; got {their}{_hidden(ours, theirs) if our == their else ''}"


def _hidden(ours: PolicySpaces, theirs: PolicySpaces) -> str:
    def table(space: Space) -> dict[str, Space]:
        return dict(leaves(space))

    for what in ("observation", "action"):
        our, their = table(getattr(ours, what)), table(getattr(theirs, what))
        for path in our | their:
            if our.get(path) != their.get(path):
                return f", which differs in {what}{path}"
    return ", which has its parts in another order"
