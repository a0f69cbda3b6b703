"""A gRPC server with ML-Agents' unary `Exchange`, which answers and does nothing else.

    python grpc_server.py KIND

KIND: "bytes" sends ready bytes back; "protobuf" reads the message and makes one, as ML-Agents does.
The server is made as `RpcCommunicator` makes it: threads, ten of them.
"""

from __future__ import annotations

import sys
from concurrent import futures
from typing import Any

import grpc
from grpc_messages import METHOD, METHOD_SERVICE, Message, reply
from lockstep import Words, serve


def main() -> None:
    words = Words()
    ready = reply(1).SerializeToString()

    def echo(request: bytes, context: Any) -> bytes:
        return ready

    def exchange(request: Any, context: Any) -> Any:
        info = request.unity_output.rl_output.agent_infos[0].value.value[0]
        seen = list(info.observations[0].float_data.data)
        return reply(int(seen[0] > 0))

    if sys.argv[1] == "bytes":
        handler = grpc.unary_unary_rpc_method_handler(echo)
    else:
        handler = grpc.unary_unary_rpc_method_handler(
            exchange, Message.FromString, Message.SerializeToString
        )
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(METHOD_SERVICE, {METHOD: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    serve(words, [f"127.0.0.1:{port}"])
    server.stop(None)


if __name__ == "__main__":
    main()
