"""The part of ML-Agents' messages that a small agent's step fills in.

After `communicator_objects/*.proto` (Unity ML-Agents, Apache-2.0): the same field numbers and
types, put together here at run time, so that no generated code is needed. A protobuf map is a
repeated pair on the wire, and is written as one.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "float": FIELD.TYPE_FLOAT,
    "int32": FIELD.TYPE_INT32,
    "bool": FIELD.TYPE_BOOL,
    "string": FIELD.TYPE_STRING,
    "bytes": FIELD.TYPE_BYTES,
}
MANY = "repeated "
MESSAGES: dict[str, list[tuple[int, str, str]]] = {
    "Header": [(1, "status", "int32"), (2, "message", "string")],
    "FloatData": [(1, "data", "repeated float")],
    "Observation": [
        (1, "shape", "repeated int32"),
        (2, "compression_type", "int32"),
        (4, "float_data", "FloatData"),
        (6, "dimension_properties", "repeated int32"),
        (7, "observation_type", "int32"),
        (8, "name", "string"),
    ],
    "AgentInfo": [
        (7, "reward", "float"),
        (8, "done", "bool"),
        (9, "max_step_reached", "bool"),
        (10, "id", "int32"),
        (11, "action_mask", "repeated bool"),
        (13, "observations", "repeated Observation"),
        (14, "group_id", "int32"),
        (15, "group_reward", "float"),
    ],
    "AgentInfos": [(1, "value", "repeated AgentInfo")],
    "AgentInfosOfBehavior": [(1, "key", "string"), (2, "value", "AgentInfos")],
    "RLOutput": [
        (2, "agent_infos", "repeated AgentInfosOfBehavior"),
        (3, "side_channel", "bytes"),
    ],
    "Output": [(1, "rl_output", "RLOutput")],
    "AgentAction": [
        (4, "value", "float"),
        (5, "continuous_actions", "repeated float"),
        (6, "discrete_actions", "repeated int32"),
    ],
    "AgentActions": [(1, "value", "repeated AgentAction")],
    "AgentActionsOfBehavior": [(1, "key", "string"), (2, "value", "AgentActions")],
    "RLInput": [
        (1, "agent_actions", "repeated AgentActionsOfBehavior"),
        (4, "command", "int32"),
        (5, "side_channel", "bytes"),
    ],
    "Input": [(1, "rl_input", "RLInput")],
    "Message": [
        (1, "header", "Header"),
        (2, "unity_output", "Output"),
        (3, "unity_input", "Input"),
    ],
}
METHOD_SERVICE, METHOD = "communicator_objects.UnityToExternalProto", "Exchange"
BEHAVIOR = "Cart?team=0"


def _message_class() -> type[Any]:
    package = "exchange"
    file = descriptor_pb2.FileDescriptorProto(
        name="exchange.proto", package=package, syntax="proto3"
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            scalar = kind.removeprefix(MANY)
            one = message.field.add(name=field, number=number)
            one.label = FIELD.LABEL_REPEATED if kind.startswith(MANY) else FIELD.LABEL_OPTIONAL
            if scalar in SCALARS:
                one.type = SCALARS[scalar]
            else:
                one.type, one.type_name = FIELD.TYPE_MESSAGE, f".{package}.{scalar}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Message"))


Message = _message_class()


def request(observation: list[float], reward: float, done: bool) -> Any:
    """What an environment sends: one agent, one vector of floats, a reward, whether it is over."""
    message = Message()
    message.header.status = 200
    infos = message.unity_output.rl_output.agent_infos.add(key=BEHAVIOR)
    info = infos.value.value.add(reward=reward, done=done, id=1)
    seen = info.observations.add(name="VectorSensor", shape=[len(observation)])
    seen.dimension_properties.append(1)
    seen.float_data.data.extend(observation)
    return message


def reply(action: int) -> Any:
    """What it gets: one discrete action."""
    message = Message()
    message.header.status = 200
    actions = message.unity_input.rl_input.agent_actions.add(key=BEHAVIOR)
    actions.value.value.add().discrete_actions.append(action)
    return message
