"""Who is at the other end of a node link: a mutual challenge under the shared link ring, before any link message.

    node   -> router   Challenge(protocol, node_id, incarnation, nonce)
    router -> node     Answer(protocol, router_id, nonce, kid, proof)      proves that the router holds the key
    node   -> router   Welcome(kid, proof)                                 proves that the node does

Both proofs are HMACs over who speaks, the protocol, both identities, the incarnation and both nonces, so neither can be
replayed, reflected, or carried to another node or another incarnation. No secret and no bearer token is sent.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal, Protocol, TypeVar

import msgspec

from contract.errors import MalformedFrame, NodeUnreachable, Unauthorized
from contract.node_link import LINK_PROTOCOL
from contract.tokens import KeyRing

__all__ = ["HandshakeWire", "NodeIdentity", "prove_as_node", "prove_as_router"]

_NONCE_BYTES: Final = 32
_MAX_NAME: Final = 128
_Role = Literal["node", "router"]
Nonce = Callable[[], bytes]


class HandshakeWire(Protocol):
    """Messages both ways, in order; raises NodeUnreachable once the other side is gone."""

    async def send_bytes(self, message: bytes) -> None: ...

    async def receive_bytes(self) -> bytes: ...


class NodeIdentity(msgspec.Struct, frozen=True):
    node_id: str
    incarnation: str


class _Challenge(msgspec.Struct, frozen=True, tag_field="h", tag="challenge"):
    protocol: int
    node_id: str
    incarnation: str
    nonce: bytes


class _Answer(msgspec.Struct, frozen=True, tag_field="h", tag="answer"):
    protocol: int
    router_id: str
    nonce: bytes
    kid: str
    proof: bytes


class _Welcome(msgspec.Struct, frozen=True, tag_field="h", tag="welcome"):
    kid: str
    proof: bytes


_M = TypeVar("_M", _Challenge, _Answer, _Welcome)


async def prove_as_node(
    wire: HandshakeWire, *, ring: KeyRing, identity: NodeIdentity, timeout_s: float, nonce: Nonce | None = None
) -> str:
    """The listening side. Returns the router's id, proven.

    Raises Unauthorized, MalformedFrame (another protocol, or no handshake at all) or NodeUnreachable; the caller
    closes the connection on each.
    """
    ours = _fresh(nonce)
    async with _within(timeout_s):
        await _send(wire, _Challenge(LINK_PROTOCOL, identity.node_id, identity.incarnation, ours))
        answer = await _receive(wire, _Answer)
        _check_protocol(answer.protocol)
        _check_sizes(answer.router_id, answer.nonce)
        theirs = answer.nonce
        statement = _statement("router", identity, answer.router_id, ours, theirs)
        if not ring.check_proof(answer.kid, statement, answer.proof):
            raise Unauthorized("the router does not hold our link key", field="proof")
        kid, proof = ring.prove(_statement("node", identity, answer.router_id, ours, theirs))
        await _send(wire, _Welcome(kid, proof))
    return answer.router_id


async def prove_as_router(
    wire: HandshakeWire,
    *,
    ring: KeyRing,
    router_id: str,
    expected: NodeIdentity,
    timeout_s: float,
    nonce: Nonce | None = None,
) -> None:
    """The connecting side: returns once the node proved to be `expected`, in exactly that incarnation.

    Raises Unauthorized (also when somebody else, or a newer incarnation, answers at that address), MalformedFrame or
    NodeUnreachable.
    """
    async with _within(timeout_s):
        challenge = await _receive(wire, _Challenge)
        _check_protocol(challenge.protocol)
        _check_sizes(challenge.node_id, challenge.nonce)
        if NodeIdentity(challenge.node_id, challenge.incarnation) != expected:
            raise Unauthorized("another node, or another incarnation, listens there", field="node_id")
        ours = _fresh(nonce)
        kid, proof = ring.prove(_statement("router", expected, router_id, challenge.nonce, ours))
        await _send(wire, _Answer(LINK_PROTOCOL, router_id, ours, kid, proof))
        welcome = await _receive(wire, _Welcome)
        if not ring.check_proof(
            welcome.kid, _statement("node", expected, router_id, challenge.nonce, ours), welcome.proof
        ):
            raise Unauthorized("the node does not hold our link key", field="proof")


def _statement(role: _Role, node: NodeIdentity, router_id: str, node_nonce: bytes, router_nonce: bytes) -> bytes:
    """What is proven; JSON of a list keeps the parts apart."""
    return msgspec.json.encode(
        ["stagecue.link", LINK_PROTOCOL, role, node.node_id, node.incarnation, router_id, node_nonce, router_nonce]
    )


def _fresh(nonce: Nonce | None) -> bytes:
    return nonce() if nonce is not None else secrets.token_bytes(_NONCE_BYTES)


def _check_protocol(protocol: int) -> None:
    if protocol != LINK_PROTOCOL:
        raise MalformedFrame(
            f"speaks node link protocol {protocol}", field="protocol", rule=f"{LINK_PROTOCOL} is spoken"
        )


def _check_sizes(name: str, nonce: bytes) -> None:
    if not 1 <= len(name) <= _MAX_NAME or len(nonce) != _NONCE_BYTES:
        raise MalformedFrame("not a handshake", field="nonce", rule=f"{_NONCE_BYTES} bytes, and a name")


async def _send(wire: HandshakeWire, message: _Challenge | _Answer | _Welcome) -> None:
    await wire.send_bytes(msgspec.json.encode(message))


async def _receive(wire: HandshakeWire, kind: type[_M]) -> _M:
    try:
        return msgspec.json.decode(await wire.receive_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedFrame(f"not a handshake: {exc}", field="handshake") from exc


@asynccontextmanager
async def _within(timeout_s: float) -> AsyncIterator[None]:
    """A silent peer is no peer."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise NodeUnreachable("no handshake in time") from None
