"""Whether an address is this machine's own: load for another machine wants to be asked for."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

import psutil

from loadtest.bench.outcome import CouldNotRun

__all__ = ["is_here"]


def is_here(url: str) -> bool:
    """Whether every address of the URL's host is one of this machine's. Blocking. Raises CouldNotRun: no such host."""
    try:
        host = urlsplit(url).hostname
    except ValueError as exc:
        raise CouldNotRun(f"{url!r} is no address: {exc}") from exc
    if not host:
        raise CouldNotRun(f"{url!r} names no host: scheme://host:port")
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as exc:
        raise CouldNotRun(f"{host!r} is no known host: {exc.strerror}") from exc
    own = {each.address.partition("%")[0] for addresses in psutil.net_if_addrs().values() for each in addresses}
    return all(address in own or ipaddress.ip_address(str(address)).is_loopback for address in found)
