"""Whose word raises a class: peers of trusted networks. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address, ip_network

from contract.errors import InvalidRequest
from dgs.serving import Ask, Seen

__all__ = ["trusting"]

_FIELD = "DGS_TRUSTED_NETWORKS"
_KEPT = 4_096


def trusting(look: Callable[[Ask], Seen], networks: str) -> Callable[[Ask], Seen]:
    """`look`, which also says whether the peer lies in one of `networks` (by commas). Raises InvalidRequest."""
    parts = [part.strip() for part in networks.split(",") if part.strip()]
    try:
        trusted = [ip_network(part) for part in parts]
    except ValueError as exc:
        raise InvalidRequest(
            str(exc)[:120], field=_FIELD, rule="networks by commas, like 10.0.0.0/8, fd00::/8"
        ) from exc
    if not trusted:
        return look

    @lru_cache(maxsize=_KEPT)
    def is_trusted(host: str) -> bool:
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in trusted)

    def look_and_trust(ask: Ask) -> Seen:
        seen = look(ask)
        # Only who says something of its class has to be believed.
        return seen._replace(trusted=True) if seen.asked is not None and is_trusted(ask.host) else seen

    return look_and_trust
