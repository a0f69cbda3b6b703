"""The version of the wire, apart from the version of the package."""

PROTOCOL_VERSION = 1
