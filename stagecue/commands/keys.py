"""`stagecue keys`: what signs and what verifies, and how that changes while everything runs."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from contract.token_rings import StoredKey, StoredRing
    from contract.tokens import Audience

__all__ = ["keys"]

_RINGS: Final = ("device", "operator", "link", "profile")
_LEAD_S: Final = 10.0
_KEEP_S: Final = {
    "device": 7 * 24 * 3600.0,
    "operator": 31 * 24 * 3600.0,
    "link": 3600.0,
    "profile": 24 * 3600.0,
}
"""As long as the tokens of a ring live, and longer: a device's may be issued days before its event."""
_LEAD: Final = "Seconds until it signs: within them every service must have read it. [10]"
_KEEP: Final = (
    "Seconds for which older keys verify after that. [device a week, operator 31 days, link an hour, profile a day]"
)


_LIFETIME: Final = "Seconds until it ends. [86400: a day]"


def _data_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    what = "Where keys.json is; else STAGECUE_DATA_DIR. [./stagecue-data]"
    return click.option("--data-dir", type=click.Path(path_type=Path), help=what)(command)


_ring_argument = click.argument("ring", type=click.Choice(_RINGS))


@click.group(
    epilog="\b\nExamples:\n"
    "  stagecue keys list\n"
    "  stagecue keys rotate device                        a new key signs in 10 s; the old one verifies for a week\n"
    "  stagecue keys rotate device --lead 0 && stagecue keys retire device k1      a key was stolen\n"
    "  stagecue keys trust device partner-1 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\n"
)
def keys() -> None:
    """List, rotate and retire the keys of tokens and links. Running services follow within about a second.

    Everything is in keys.json of the data directory. Where services have copies of it, copy it anew after a change,
    within the lead.
    """


@keys.command("list", epilog="\b\nExamples:\n  stagecue keys list\n  stagecue keys list --json | jq '.device.signs'\n")
@_data_dir_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object: ring -> its keys. Times are seconds.")
def list_keys(data_dir: Path | None, as_json: bool) -> None:
    """Show the keys of every ring: what they do and until when, never what they are."""
    stored = _explained(lambda: _stored(_directory(data_dir)))
    now_s = _now_s()
    if as_json:
        click.echo(json.dumps({name: _told(stored[_audience(name)], now_s) for name in _there(stored)}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("ring", "key", "algorithm", "does", "until")
    for name in _there(stored):
        for key in _told(stored[_audience(name)], now_s)["keys"]:
            table.add_row(name, key["kid"], key["alg"], _does(key), _when(key["not_after_s"]) or "retired by hand")
    Console().print(table)


@keys.command(
    epilog="\b\nExamples:\n"
    "  stagecue keys rotate device\n"
    "  stagecue keys rotate device --lead 300 --keep 1209600     keys.json is copied to other hosts meanwhile\n"
    "  stagecue keys rotate operator --lead 0\n"
    "  stagecue keys rotate device --alg EdDSA                   verifying costs push nodes forty times as much\n"
)
@_ring_argument
@_data_dir_option
@click.option("--kid", help="Id of the new key. [the next free k<number>]")
@click.option("--alg", type=click.Choice(["HS256", "EdDSA"]), default="HS256", show_default=True, help="Algorithm.")
@click.option("--lead", "lead_s", type=click.FloatRange(0, 7 * 24 * 3600), default=_LEAD_S, help=_LEAD)
@click.option("--keep", "keep_s", type=click.FloatRange(0, 366 * 24 * 3600), help=_KEEP)
def rotate(ring: str, data_dir: Path | None, kid: str | None, alg: str, lead_s: float, keep_s: float | None) -> None:
    """Add a key that signs soon, and end those that signed so far after their tokens."""
    from contract.token_keys import Algorithm
    from stagecue.keys import fresh_key

    chosen: Algorithm = "EdDSA" if alg == "EdDSA" else "HS256"
    name = kid

    def change(stored: StoredRing) -> StoredRing:
        nonlocal name
        name = kid or _next_kid(stored)
        keep = _KEEP_S[ring] if keep_s is None else keep_s
        return stored.rotated(name, fresh_key(chosen), now_s=_now_s(), lead_s=lead_s, keep_s=keep)

    _changed(ring, data_dir, change)
    click.echo(f"{ring}: {name} signs {'now' if lead_s == 0 else f'in {lead_s:g} s'}; it verifies already.")


@keys.command(epilog="\b\nExamples:\n  stagecue keys retire device k1\n  stagecue keys retire device k1 --after 3600\n")
@_ring_argument
@click.argument("kid")
@_data_dir_option
@click.option("--after", "after_s", type=click.FloatRange(0, 366 * 24 * 3600), default=0.0, help="Seconds. [at once]")
def retire(ring: str, kid: str, data_dir: Path | None, after_s: float) -> None:
    """End a key: from then on its tokens are refused. Sessions that are open stay open."""
    _changed(ring, data_dir, lambda stored: stored.retired(kid, now_s=_now_s(), after_s=after_s))
    click.echo(f"{ring}: {kid} {'is gone' if after_s == 0 else f'ends in {after_s:g} s'}.")


@keys.command(
    epilog="\b\nExamples:\n  stagecue keys trust device partner-1 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\n"
)
@_ring_argument
@click.argument("kid")
@click.argument("public")
@_data_dir_option
def trust(ring: str, kid: str, public: str, data_dir: Path | None) -> None:
    """Accept tokens of another issuer: PUBLIC is its Ed25519 key, as `x` in a JWK (32 bytes in base64url)."""
    from contract.token_rings import StoredKey

    try:
        key = base64.b64decode(public.rstrip("=") + "=" * (-len(public.rstrip("=")) % 4), altchars=b"-_", validate=True)
    except binascii.Error as exc:
        raise click.UsageError(f"PUBLIC: not base64url: {exc}") from exc
    stored = StoredKey(alg="EdDSA", public=key)
    _changed(ring, data_dir, lambda found: found.trusted(kid, stored, now_s=_now_s()))
    click.echo(f"{ring}: tokens signed by {kid} are accepted.")


@keys.command(
    epilog="\b\nExamples:\n"
    "  stagecue keys token --profile p-1\n"
    '  curl -H "Authorization: Bearer $(stagecue keys token --profile p-1)" http://127.0.0.1:8401/graphql ...\n'
)
@click.option("--profile", "profile_id", required=True, help="Profile id the token is for.")
@click.option("--lifetime", "lifetime_s", type=click.IntRange(1, 366 * 24 * 3600), default=86_400, help=_LIFETIME)
@_data_dir_option
def token(profile_id: str, lifetime_s: int, data_dir: Path | None) -> None:
    """Print a token for a profile, for development: in production an identity service signs them.

    Anybody who shows it may prefetch as that profile until it ends.
    """
    from contract.runtime.system_clock import SystemClock
    from stagecue.keys import load_or_create_keys, profile_token

    def signed() -> str:
        directory, clock = _directory(data_dir), SystemClock()
        _stored(directory)  # where there is none, no service would know the key it is signed with
        return profile_token(load_or_create_keys(directory, clock).profile, clock, profile_id, lifetime_s=lifetime_s)

    click.echo(_explained(signed))


def _changed(ring: str, data_dir: Path | None, change: Callable[[StoredRing], StoredRing]) -> None:
    from stagecue.keys import change_ring

    _explained(lambda: change_ring(_directory(data_dir), _audience(ring), change))


def _explained(work: Callable[[], Any]) -> Any:
    """What it returns; trouble of the file's or the caller's in one line, exit code 2."""
    from contract.errors import BroadcastSystemError
    from stagecue.keys import BrokenKeys, UnusableDataDir

    try:
        return work()
    except (BroadcastSystemError, BrokenKeys, UnusableDataDir) as exc:
        click.echo(f"stagecue: {exc}", err=True)
        raise SystemExit(2) from exc


def _directory(data_dir: Path | None) -> Path:
    from stagecue.commands.up import checked_settings
    from stagecue.settings import InstallationSettings

    return checked_settings(InstallationSettings, {} if data_dir is None else {"data_dir": data_dir}).data_dir


def _stored(data_dir: Path) -> dict[str, StoredRing]:
    from stagecue.keys import ADDED_LATER, key_file, read_key_file

    return read_key_file(key_file(data_dir), may_lack=ADDED_LATER)[1]


def _there(stored: dict[str, StoredRing]) -> list[str]:
    """Names of the rings of a file: one from before lacks some till a service starts."""
    return [name for name in _RINGS if _audience(name) in stored]


def _audience(ring: str) -> Audience:
    audiences: dict[str, Audience] = {
        "device": "stagecue.device",
        "operator": "stagecue.operator",
        "link": "stagecue.link",
        "profile": "stagecue.profile",
    }
    return audiences[ring]


def _now_s() -> float:
    from contract.runtime.system_clock import SystemClock

    return SystemClock().now_ms() / 1000


def _next_kid(stored: StoredRing) -> str:
    number = len(stored.keys) + 1
    while f"k{number}" in stored.keys:
        number += 1
    return f"k{number}"


def _told(stored: StoredRing, now_s: float) -> dict[str, Any]:
    signer = stored.signer(now_s)

    def told(kid: str, key: StoredKey) -> dict[str, Any]:
        waits = key.signs and key.signs_from_s is not None and key.signs_from_s > now_s
        return {
            "kid": kid,
            "alg": key.alg,
            "signs": kid == signer,
            "verifies": not key.expired(now_s),
            "signs_from_s": key.signs_from_s if waits else None,
            "not_after_s": key.not_after_s,
        }

    return {"signs": signer, "keys": [told(kid, key) for kid, key in stored.keys.items()]}


def _does(key: dict[str, Any]) -> str:
    if not key["verifies"]:
        return "nothing any more"
    if key["signs"]:
        return "signs, verifies"
    return f"verifies; signs from {_when(key['signs_from_s'])}" if key["signs_from_s"] else "verifies"


def _when(at_s: int | None) -> str:
    from datetime import UTC, datetime

    return "" if at_s is None else datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
