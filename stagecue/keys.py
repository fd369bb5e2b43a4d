"""The key rings of an installation: made at the first start, kept in its data directory, readable by its owner only."""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, get_args

import msgspec

from contract.clock import Clock
from contract.tokens import MIN_SECRET_BYTES, Audience, KeyRing, OperatorClaims, OperatorRole

__all__ = ["BrokenKeys", "Keys", "UnusableDataDir", "load_or_create_keys", "operator_token", "write_privately"]

OPERATOR_TOKEN_LIFETIME_S: Final = 30 * 24 * 3600
"""A month: long enough to forget about on a laptop, short enough that a copied data directory grows harmless."""


class BrokenKeys(Exception):
    """keys.json cannot be read; says what to do."""


class UnusableDataDir(OSError):
    """The data directory is none, or cannot be written to; says what to do."""


class Keys(msgspec.Struct, frozen=True):
    device: KeyRing
    operator: KeyRing
    link: KeyRing
    link_secret: bytes
    """The link ring's signing secret, for the node link's mutual challenge."""


def load_or_create_keys(data_dir: Path) -> Keys:
    """The rings of `<data_dir>/keys.json`, made if there is none. Raises BrokenKeys or UnusableDataDir."""
    path = data_dir / "keys.json"
    with _in(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_privately(path, json.dumps(_fresh(), indent=2).encode(), replace=False)
    try:
        rings = json.loads(path.read_bytes())
        decoded = {
            audience: {kid: base64.b64decode(text, validate=True) for kid, text in rings[audience]["keys"].items()}
            for audience in get_args(Audience)
        }
        ring = {audience: KeyRing(audience, keys, rings[audience]["signing_kid"]) for audience, keys in decoded.items()}
        link_secret = decoded["stagecue.link"][rings["stagecue.link"]["signing_kid"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, binascii.Error) as exc:
        raise BrokenKeys(
            f"{path} cannot be read as key rings: {exc!r}. Restore it from a backup, or delete it to have new keys "
            "made: every device and operator then needs a new token."
        ) from exc
    return Keys(ring["stagecue.device"], ring["stagecue.operator"], ring["stagecue.link"], link_secret)


def operator_token(
    data_dir: Path, ring: KeyRing, clock: Clock, *, name: str = "local", role: OperatorRole = "operator"
) -> str:
    """A fresh operator token, also written to `<data_dir>/operator.token` for `stagecue event`.

    Raises UnusableDataDir.
    """
    expiry_s = clock.now_ms() // 1000 + OPERATOR_TOKEN_LIFETIME_S
    token = ring.sign(OperatorClaims(sub=name, exp=expiry_s, role=role))
    with _in(data_dir):
        write_privately(data_dir / "operator.token", token.encode() + b"\n", replace=True)
    return token


def write_privately(path: Path, content: bytes, *, replace: bool) -> None:
    """Write a file of mode 0600, whole or not at all, durable before it has its name.

    With `replace=False` a file that appeared meanwhile wins: two processes starting together agree on one.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            try:
                path.hardlink_to(draft)
            except FileExistsError:
                return
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _in(data_dir: Path) -> Iterator[None]:
    """The directory a person named, instead of the file we failed on."""
    try:
        yield
    except OSError as exc:
        why = "it is a file" if isinstance(exc, FileExistsError) else exc.strerror or repr(exc)
        raise UnusableDataDir(
            f"the data directory {data_dir} cannot be used: {why} (name another with --data-dir or STAGECUE_DATA_DIR)"
        ) from exc


def _fresh() -> dict[str, dict[str, object]]:
    return {
        audience: {
            "signing_kid": "k1",
            "keys": {"k1": base64.b64encode(secrets.token_bytes(MIN_SECRET_BYTES)).decode()},
        }
        for audience in get_args(Audience)
    }
