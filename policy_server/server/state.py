"""What a checkpoint holds of a policy: the gateway's share and the learner's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policy_server.types import PolicySpaces, PolicyState
from sim_clients.protocol.spaces import from_wire

if TYPE_CHECKING:
    from policy_server.gateway.gateway import Gateway


def join_state(gateway: PolicyState, learner: PolicyState | None) -> PolicyState:
    """The gateway's and the learner's share as one, names apart."""
    tensors = {f"gateway/{k}": v for k, v in gateway.tensors.items()}
    data: dict[str, Any] = {"gateway": gateway.data, "learner": None}
    if learner is not None:
        tensors |= {f"learner/{k}": v for k, v in learner.tensors.items()}
        data["learner"] = learner.data
    return PolicyState(tensors, data)


def split_state(state: PolicyState) -> tuple[PolicyState, PolicyState | None]:
    """The inverse."""

    def part(name: str) -> PolicyState:
        prefix = f"{name}/"
        tensors = {k[len(prefix) :]: v for k, v in state.tensors.items() if k.startswith(prefix)}
        return PolicyState(tensors, state.data[name])

    return part("gateway"), part("learner") if state.data["learner"] is not None else None


def write_spaces(spaces: PolicySpaces) -> dict[str, Any]:
    return {
        "observation": spaces.observation.to_wire(),
        "action": spaces.action.to_wire(),
        "mask": spaces.mask,
    }


def read_spaces(data: dict[str, Any]) -> PolicySpaces:
    return PolicySpaces(from_wire(data["observation"]), from_wire(data["action"]), data["mask"])


def collect(gateway: Gateway) -> dict[str, Any]:
    """Everything a checkpoint needs, on the gateway's thread; learner states as the learner's
    handle gives them (references where it is remote)."""
    return {
        "step": gateway.env_steps,
        "spaces": {name: write_spaces(desk.spaces) for name, desk in gateway.desks.items()},
        "policies": {
            name: (desk.state(), desk.learner.request_state() if desk.learner else None)
            for name, desk in gateway.desks.items()
        },
    }
