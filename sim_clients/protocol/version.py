"""The version of the wire, apart from the version of the package."""

PROTOCOL_VERSION = 1

LOCAL_SOCKET = "local_socket"
"""A capability in HELLO, and the key in WELCOME's limits where the path stands."""

HEAD_BYTES = 4
"""Before each message on a local socket: its length, little-endian."""
