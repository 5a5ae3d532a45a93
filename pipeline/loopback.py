"""Whether an address is this machine's own, which no proxy of the environment can reach."""

import ipaddress
import socket
from urllib.parse import urlsplit


def on_loopback(url: str) -> bool:
    """Whether the host of a URL, by name or address, is this machine's loopback."""
    try:
        host = urlsplit(url).hostname
        found = socket.getaddrinfo(host, None) if host else []
    except (OSError, ValueError):
        return False
    addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    return bool(addresses) and all(each.is_loopback or each.is_unspecified for each in addresses)
