"""The key rings of an installation: made at the first start, kept in its data directory, readable by its owner only."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, get_args

import msgspec
import structlog

from contract.clock import Clock
from contract.errors import Conflict, InvalidRequest
from contract.runtime.system_clock import SystemClock
from contract.token_keys import ED25519_KEY_BYTES, Algorithm
from contract.token_rings import StoredKey, StoredRing, read_rings, written_rings
from contract.tokens import (
    MIN_SECRET_BYTES,
    Audience,
    KeyRing,
    LiveKeyRing,
    OperatorClaims,
    OperatorRole,
    ProfileClaims,
)

__all__ = [
    "ADDED_LATER",
    "BrokenKeys",
    "Keys",
    "UnusableDataDir",
    "change_ring",
    "fresh_key",
    "key_file",
    "load_or_create_keys",
    "operator_token",
    "profile_token",
    "read_key_file",
    "rings_of",
    "write_privately",
]

OPERATOR_TOKEN_LIFETIME_S: Final = 30 * 24 * 3600
"""A month: long enough to forget about on a laptop, short enough that a copied data directory grows harmless."""
_MAX_FILE_BYTES: Final = 1_000_000
"""No more is read; rings of all the keys there may be have a tenth of it."""
ADDED_LATER: Final[tuple[Audience, ...]] = ("stagecue.profile",)
"""Files from before do not have these rings: they are added."""
_LOCK_PATIENCE_S: Final = 5.0
_DRAFT_LIFE_S: Final = 60.0
"""A draft this old was left by a writer that died."""
_log = structlog.get_logger(__name__)


class BrokenKeys(Exception):
    """keys.json cannot be read; says what to do."""


class UnusableDataDir(OSError):
    """The data directory is none, or cannot be written to; says what to do."""


class Keys(msgspec.Struct, frozen=True):
    """An installation's rings. They follow the file where a `RingWatch` runs."""

    device: LiveKeyRing
    operator: LiveKeyRing
    link: LiveKeyRing
    profile: LiveKeyRing


def key_file(data_dir: Path) -> Path:
    return data_dir / "keys.json"


def load_or_create_keys(data_dir: Path, clock: Clock | None = None) -> Keys:
    """The rings of `<data_dir>/keys.json`, made if there is none. Raises BrokenKeys or UnusableDataDir."""
    path = key_file(data_dir)
    with _in(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            fresh = [
                (audience, StoredRing(signing_kid="k1", keys={"k1": fresh_key()})) for audience in get_args(Audience)
            ]
            write_privately(path, written_rings(dict(fresh)), replace=False)
    return rings_of(path, _completed(data_dir, path), (clock or SystemClock()).now_ms() / 1000)


def _completed(data_dir: Path, path: Path) -> dict[str, StoredRing]:
    """The rings of the file, with what a file from before lacks.

    Where nobody may write (a copy that is mounted, say), that is made up for this process alone: a ring nobody else
    has verifies nothing, and takes nothing from the others.
    """
    _, stored = read_key_file(path, may_lack=ADDED_LATER)
    if all(audience in stored for audience in ADDED_LATER):
        return stored
    try:
        with _one_writer(data_dir):
            _, stored = read_key_file(path, may_lack=ADDED_LATER)
            stored = _with_rings(stored)
            write_privately(path, written_rings(stored), replace=True)
    except (OSError, Conflict) as exc:
        _log.warning("key_ring_not_added", rings=list(ADDED_LATER), why=str(exc))
        stored = _with_rings(stored)
    return stored


def _with_rings(stored: dict[str, StoredRing]) -> dict[str, StoredRing]:
    added = {
        audience: StoredRing(signing_kid="k1", keys={"k1": fresh_key()})
        for audience in ADDED_LATER
        if audience not in stored
    }
    return stored | added


def read_key_file(path: Path, *, may_lack: Collection[Audience] = ()) -> tuple[bytes, dict[str, StoredRing]]:
    """Its content, and the rings in it. Raises BrokenKeys."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES)
        return content, read_rings(content, may_lack=may_lack)
    except FileNotFoundError as exc:
        raise BrokenKeys(f"{path} is not there: a service that starts in this directory makes new keys") from exc
    except (OSError, ValueError) as exc:
        raise _broken(path, exc) from exc


def rings_of(path: Path, stored: dict[str, StoredRing], now_s: float, *, instead: Keys | None = None) -> Keys:
    """The rings of a file as they are at `now_s`; of those it lacks, the ones of `instead`.

    Raises BrokenKeys if one of them cannot sign.
    """
    had = {} if instead is None else {ring.audience: ring for ring in msgspec.structs.astuple(instead)}
    try:
        rings = [
            LiveKeyRing.of(
                had[audience] if audience in had and audience not in stored else stored[audience].ring(audience, now_s)
            )
            for audience in get_args(Audience)
        ]
    except (ValueError, KeyError) as exc:
        raise _broken(path, exc) from exc
    return Keys(*rings)


def change_ring(data_dir: Path, audience: Audience, change: Callable[[StoredRing], StoredRing]) -> StoredRing:
    """Write one ring anew: one writer at a time, and the old or the new file whenever the process dies.

    Raises BrokenKeys, UnusableDataDir, Conflict if another writer does not end, InvalidRequest for a key this ring may
    not have, or whatever `change` raises.
    """
    path = key_file(data_dir)
    with _in(data_dir), _one_writer(data_dir):
        rings = _with_rings(read_key_file(path, may_lack=ADDED_LATER)[1])
        changed = change(rings[audience])
        try:
            changed.ring(audience, time.time())
        except ValueError as exc:
            raise InvalidRequest(str(exc), field="key") from exc
        write_privately(path, written_rings(rings | {audience: changed}), replace=True)
    return changed


def fresh_key(alg: Algorithm = "HS256") -> StoredKey:
    """A random key that signs."""
    if alg == "EdDSA":
        return StoredKey(alg=alg, private=secrets.token_bytes(ED25519_KEY_BYTES))
    return StoredKey(alg=alg, secret=secrets.token_bytes(MIN_SECRET_BYTES))


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


def profile_token(ring: KeyRing, clock: Clock, profile_id: str, *, lifetime_s: int) -> str:
    """A token for one profile, as an identity service would sign it: for development and for tests."""
    return ring.sign(ProfileClaims(sub=profile_id, exp=clock.now_ms() // 1000 + lifetime_s))


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
        _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    """Make a new name in it survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


@contextmanager
def _one_writer(data_dir: Path) -> Iterator[None]:
    """Holds a lock that the system takes back when the process dies; sweeps away what died writers left."""
    import fcntl

    descriptor = os.open(data_dir / ".keys.lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        give_up_s = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up_s:
                    raise Conflict("another process is changing the keys", rule="try again") from None
                time.sleep(0.05)
        for draft in data_dir.glob(".keys.json.*"):
            with suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > _DRAFT_LIFE_S:
                    draft.unlink()
        yield
    finally:
        os.close(descriptor)


def _broken(path: Path, exc: Exception) -> BrokenKeys:
    return BrokenKeys(
        f"{path} cannot be read as key rings: {exc}. Restore it from a backup, or delete it to have new keys "
        "made: every device and operator then needs a new token."
    )
