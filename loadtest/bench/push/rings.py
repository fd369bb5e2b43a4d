"""What a benchmark and the push node it started tell each other at first."""

from __future__ import annotations

import base64
import secrets

import msgspec

from contract.tokens import KeyRing

__all__ = ["NodeReady", "NodeRings", "new_rings"]


class NodeRings(msgspec.Struct, frozen=True):
    """Secrets of a benchmark, base64, each signing."""

    device: str
    link: str

    def device_ring(self) -> KeyRing:
        return KeyRing("stagecue.device", {"k1": base64.b64decode(self.device)}, "k1")

    def link_ring(self) -> KeyRing:
        return KeyRing("stagecue.link", {"k1": base64.b64decode(self.link)}, "k1")


class NodeReady(msgspec.Struct, frozen=True):
    """What the process says: first where it listens, then, linked to a router and its store read, that it is ready."""

    port: int
    link: str
    node_id: str
    incarnation: str


def new_rings() -> NodeRings:
    """Fresh secrets."""
    return NodeRings(*(base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2)))
