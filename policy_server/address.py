"""Which addresses a server may listen on."""

from __future__ import annotations

import ipaddress

from policy_server.errors import AddressError

INSECURE = (
    "everyone who can reach this address can read what the policies see and do, take part in "
    "their training, and stop it; nothing is encrypted and nobody has to prove who they are"
)


def check_address(bind: str, insecure: bool) -> None:
    """Refuses what cannot be bound, and what others could reach unasked.

    Raises:
        AddressError: with the remedy.
    """
    scheme, _, rest = bind.partition("://")
    if scheme == "ipc" and rest:
        return
    if scheme != "tcp" or not rest:
        raise AddressError(f"server.bind: expected tcp://HOST:PORT or ipc://PATH, got '{bind}'.")
    host, _, port = rest.rpartition(":")
    if not host or not (port == "*" or (port.isdigit() and int(port) < 65536)):
        raise AddressError(f"server.bind: expected tcp://HOST:PORT, got '{bind}'.")
    if not _is_loopback(host) and not insecure:
        raise AddressError(
            f"'{bind}' can be reached from other machines: {INSECURE}. Bind to 127.0.0.1, or say "
            "--insecure if that is what you want."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
