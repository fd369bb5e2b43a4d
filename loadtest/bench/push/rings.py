"""What a benchmark and the push node it started tell each other at first."""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode

import msgspec

from contract.tokens import Ed25519Key, KeyRing, RingKey

__all__ = ["NodeReady", "NodeRings", "new_rings"]


class NodeRings(msgspec.Struct, frozen=True):
    """Keys of a benchmark, base64."""

    device: str
    link: str
    eddsa_private: str = ""

    def with_eddsa(self) -> NodeRings:
        """The same, and a fresh EdDSA key besides."""
        return msgspec.structs.replace(self, eddsa_private=b64encode(secrets.token_bytes(32)).decode())

    def device_ring(self) -> KeyRing:
        """What nodes hold: the shared secret that signs, and a public key if there is one."""
        keys: dict[str, bytes | RingKey] = {"k1": b64decode(self.device)}
        if self.eddsa_private:
            keys["ed1"] = Ed25519Key(public=self._eddsa().public.public_bytes_raw())
        return KeyRing("stagecue.device", keys, "k1")

    def eddsa_ring(self) -> KeyRing:
        """Signs device tokens with the private key of that public one."""
        return KeyRing("stagecue.device", {"ed1": self._eddsa()}, "ed1")

    def link_ring(self) -> KeyRing:
        return KeyRing("stagecue.link", {"k1": b64decode(self.link)}, "k1")

    def _eddsa(self) -> Ed25519Key:
        return Ed25519Key(private=b64decode(self.eddsa_private))


class NodeReady(msgspec.Struct, frozen=True):
    """What the process says: first where it listens, then, linked to a router and its store read, that it is ready."""

    port: int
    link: str
    node_id: str
    incarnation: str


def new_rings() -> NodeRings:
    """Fresh secrets."""
    return NodeRings(*(b64encode(secrets.token_bytes(32)).decode() for _ in range(2)))
