"""`stagecue event`: set up, watch, shift, cue and cancel live events over the operator API."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec
from urllib.parse import quote

import click

if TYPE_CHECKING:
    from stagecue.commands.event_client import ApiClient

__all__ = ["event", "parse_stage"]

P = ParamSpec("P")
_STAGE: Final = re.compile(
    r"(?P<key>[^=:]+)=(?P<anchor>start|end|manual)(?P<offset>[+-]P[^:]*)?(?::(?P<headline>.*))?", re.DOTALL
)


@click.group(
    epilog="\b\nExamples:\n"
    "  stagecue event add --id tyson-paul --title 'Paul vs. Tyson' \\\n"
    "      --starts 2024-11-15T20:00 --tz America/New_York\n"
    "  stagecue event import schedule.ics --dry-run\n"
    "  stagecue event shift tyson-paul PT10M\n"
    "  stagecue event cue tyson-paul live\n"
    "  stagecue event reach tyson-paul --json\n"
)
def event() -> None:
    """Set up, watch, shift, cue and cancel live events.

    Every command talks to the operator API of a running `stagecue up` or `stagecue producer`.
    """


def _connected(command: Callable[Concatenate[ApiClient, P], None]) -> Callable[..., None]:
    """Gives a command its client, and the options that say where the API is."""

    @click.option(
        "--url",
        envvar="STAGECUE_URL",
        default="http://127.0.0.1:8400",
        show_default=True,
        help="Operator API; STAGECUE_URL.",
    )
    @click.option(
        "--token",
        envvar="STAGECUE_TOKEN",
        help="Operator token; STAGECUE_TOKEN.  [default: the file operator.token in the data directory]",
    )
    @click.option(
        "--data-dir",
        envvar="STAGECUE_DATA_DIR",
        default="stagecue-data",
        show_default=True,
        type=click.Path(path_type=Path),
        help="Where `stagecue up` keeps its data; STAGECUE_DATA_DIR.",
    )
    @functools.wraps(command)
    def run(url: str, token: str | None, data_dir: Path, *args: P.args, **kwargs: P.kwargs) -> None:
        from stagecue.commands.event_client import ApiClient, token_for

        with ApiClient(url, token_for(token, data_dir)) as client:
            command(client, *args, **kwargs)

    return run  # fmt: skip


_as_json = click.option("--json", "as_json", is_flag=True, help="Print the API's JSON, and nothing else.")
_key = click.option("--idempotency-key", help="Repeat a write safely: the same key gives the same answer.")
_if_revision = click.option("--if-revision", type=click.IntRange(min=1), help="Only if the event is at this revision.")


def _print_json(answer: object) -> None:
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def _path(event_id: str, what: str = "") -> str:
    return f"/v1/events/{quote(event_id, safe='')}{what}"


def _etag(revision: int | None) -> str | None:
    return None if revision is None else f'"{revision}"'


def parse_stage(text: str) -> dict[str, str]:
    """`key=anchor[+-offset][:headline]` as the API's stage. Raises click.BadParameter."""
    found = _STAGE.fullmatch(text)
    if found is None:
        raise click.BadParameter(
            f"{text!r}: write key=anchor+offset:headline, such as starting_soon=start-PT15M:'Starting soon'; "
            "the anchor is start, end or manual",
            param_hint="--stage",
        )
    stage = {"key": found["key"].strip(), "anchor": found["anchor"]}
    if found["offset"]:
        stage["offset"] = found["offset"].removeprefix("+")
    if found["headline"]:
        stage["headline"] = found["headline"]
    return stage


@event.command(
    epilog="\b\nExamples:\n"
    "  stagecue event add --id tyson-paul --title 'Paul vs. Tyson' \\\n"
    "      --starts 2024-11-15T20:00 --ends 2024-11-16T01:00 --tz America/New_York\n"
    "  stagecue event add --id cup --title Cup --starts 2025-06-01T18:00:00Z \\\n"
    "      --stage starting_soon=start-PT15M:'Starting soon' --stage live=start --stage goal=manual:Goal\n"
    "  stagecue event add --file event.toml --json\n"
)
@click.option("--id", "event_id", help="1-64 of a-z 0-9 . _ -")
@click.option("--title")
@click.option("--starts", help="RFC 3339 with an offset, or a local time together with --tz.")
@click.option("--ends", help="As --starts; leave it out while nobody knows.")
@click.option("--tz", help="IANA time zone, such as America/New_York.")
@click.option(
    "--stage",
    "stages",
    multiple=True,
    metavar="KEY=ANCHOR+OFFSET[:HEADLINE]",
    help="One stage, in order of time; repeat it. Without: the server's template.",
)
@click.option(
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The whole event as .json or .toml, in the API's form; options replace its fields.",
)
@_key
@_as_json
@_connected
def add(
    client: ApiClient, event_id: str | None, title: str | None, starts: str | None, ends: str | None, tz: str | None,
    stages: tuple[str, ...], file: Path | None, idempotency_key: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Create an event."""
    from stagecue.commands.event_tables import show_event

    body = _read_event(file) if file else {}
    given = {"id": event_id, "title": title, "starts_at": starts, "ends_at": ends, "time_zone": tz}
    body |= {name: value for name, value in given.items() if value is not None}
    if stages:
        body["stages"] = [parse_stage(text) for text in stages]
    missing = [option for option, name in (("--id", "id"), ("--title", "title"), ("--starts", "starts_at"))
               if name not in body]  # fmt: skip
    if missing:
        raise click.UsageError(f"missing {', '.join(missing)} (or --file with an event)")
    created = client.call("POST", "/v1/events", body=body, headers={"Idempotency-Key": idempotency_key})
    _print_json(created) if as_json else show_event(created)


def _read_event(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            import tomllib

            found: Any = tomllib.loads(text)
        else:
            found = json.loads(text)
    except (OSError, ValueError) as exc:
        raise click.BadParameter(f"{path}: {exc}", param_hint="--file") from exc
    if not isinstance(found, dict):
        raise click.BadParameter(f"{path}: not one object", param_hint="--file")
    # TOML has times of its own; the API takes text.
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in found.items()}


@event.command("list", epilog="\b\nExamples:\n  stagecue event list\n  stagecue event list --all --json\n")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 200), help="Events per page.")
@click.option("--after", help="Begin after this id.")
@click.option("--all", "every", is_flag=True, help="Every page.")
@_as_json
@_connected
def list_events(client: ApiClient, limit: int, after: str | None, every: bool, as_json: bool) -> None:
    """List events."""
    from stagecue.commands.event_tables import show_events

    page = client.call("GET", "/v1/events", query={"limit": limit, "after": after})
    while every and page["next"]:
        following = client.call("GET", page["next"])
        page = {"items": page["items"] + following["items"], "next": following["next"]}
    _print_json(page) if as_json else show_events(page)


@event.command(epilog="\b\nExamples:\n  stagecue event show tyson-paul\n  stagecue event show tyson-paul --json\n")
@click.argument("event_id", metavar="ID")
@_as_json
@_connected
def show(client: ApiClient, event_id: str, as_json: bool) -> None:
    """Show one event, where each of its stages stands, and who holds its stage maps."""
    from stagecue.commands.event_tables import show_coverage, show_event

    found = client.call("GET", _path(event_id))
    if as_json:
        _print_json(found)
    else:
        show_event(found)
        show_coverage(client.call("GET", _path(event_id, "/coverage")))


@event.command(
    context_settings={"ignore_unknown_options": True},
    epilog="\b\nExamples:\n"
    "  stagecue event shift tyson-paul PT10M      ten minutes later\n"
    "  stagecue event shift tyson-paul -PT30S     half a minute earlier\n",
)
@click.argument("event_id", metavar="ID")
@click.argument("by", metavar="DURATION")
@_if_revision
@_key
@_as_json
@_connected
def shift(
    client: ApiClient, event_id: str, by: str, if_revision: int | None, idempotency_key: str | None, as_json: bool
) -> None:
    """Move an event's start and end by an ISO 8601 duration; its stages follow."""
    headers = {"If-Match": _etag(if_revision), "Idempotency-Key": idempotency_key}
    moved = client.call("POST", _path(event_id, "/shift"), body={"by": by}, headers=headers)
    _print_json(moved) if as_json else _show_change(client, moved)


@event.command(epilog="\b\nExamples:\n  stagecue event cancel tyson-paul\n  stagecue event cancel tyson-paul --yes\n")
@click.argument("event_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_if_revision
@_key
@_as_json
@_connected
def cancel(
    client: ApiClient, event_id: str, yes: bool, if_revision: int | None, idempotency_key: str | None, as_json: bool
) -> None:
    """Call an event off; devices are told if anything was announced."""
    if not yes:
        click.confirm(f"Cancel {event_id}? It cannot be taken back.", abort=True, err=True)
    headers = {"If-Match": _etag(if_revision), "Idempotency-Key": idempotency_key}
    cancelled = client.call("POST", _path(event_id, "/cancel"), headers=headers)
    _print_json(cancelled) if as_json else _show_change(client, cancelled)


@event.command(
    epilog="\b\nExamples:\n"
    "  stagecue event cue tyson-paul live\n"
    "  stagecue event cue tyson-paul overtime --audience europe --override-coverage\n"
)
@click.argument("event_id", metavar="ID")
@click.argument("stage")
@click.option("--audience", help="One audience; without: all.")
@click.option("--override-coverage", is_flag=True, help="Although too few devices hold the stage.")
@_key
@_as_json
@_connected
def cue(
    client: ApiClient, event_id: str, stage: str, audience: str | None, override_coverage: bool,
    idempotency_key: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Broadcast a stage now."""
    from stagecue.commands.event_tables import show_broadcasts

    body = {"stage": stage, "audience": audience, "override_coverage": override_coverage}
    sent = client.call("POST", _path(event_id, "/cue"), body=body, headers={"Idempotency-Key": idempotency_key})
    _print_json(sent) if as_json else show_broadcasts(sent["broadcasts"])


@event.command(
    epilog="\b\nExamples:\n"
    "  stagecue event preview tyson-paul\n"
    "  stagecue event preview tyson-paul --until 2024-11-16T02:00:00Z\n"
)
@click.argument("event_id", metavar="ID")
@click.option("--until", help="RFC 3339.")
@_as_json
@_connected
def preview(client: ApiClient, event_id: str, until: str | None, as_json: bool) -> None:
    """What would go out, when, to which topics."""
    from stagecue.commands.event_tables import show_preview

    found = client.call("GET", _path(event_id, "/preview"), query={"until": until})
    _print_json(found) if as_json else show_preview(found)


@event.command(epilog="\b\nExamples:\n  stagecue event reach tyson-paul\n  stagecue event reach tyson-paul --json\n")
@click.argument("event_id", metavar="ID")
@_as_json
@_connected
def reach(client: ApiClient, event_id: str, as_json: bool) -> None:
    """Who got each broadcast of an event, and how."""
    from stagecue.commands.event_tables import show_reach

    found = client.call("GET", _path(event_id, "/reach"))
    _print_json(found) if as_json else show_reach(found)


@event.command(
    epilog="\b\nExamples:\n  stagecue event coverage tyson-paul\n  stagecue event coverage tyson-paul --json\n"
)
@click.argument("event_id", metavar="ID")
@_as_json
@_connected
def coverage(client: ApiClient, event_id: str, as_json: bool) -> None:
    """Which stage maps connected devices hold, and which stages added late can be cued."""
    from stagecue.commands.event_tables import show_coverage

    found = client.call("GET", _path(event_id, "/coverage"))
    _print_json(found) if as_json else show_coverage(found)


@event.command(epilog="\b\nExamples:\n  stagecue event audit tyson-paul\n  stagecue event audit tyson-paul --limit 5\n")
@click.argument("event_id", metavar="ID")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 500))
@click.option("--after", type=click.IntRange(min=0), help="Begin after this sequence number.")
@_as_json
@_connected
def audit(client: ApiClient, event_id: str, limit: int, after: int | None, as_json: bool) -> None:
    """Who changed what, from what, to what."""
    from stagecue.commands.event_tables import show_audit

    found = client.call("GET", _path(event_id, "/audit"), query={"limit": limit, "after": after})
    _print_json(found) if as_json else show_audit(found)


@event.command(
    "import",
    epilog="\b\nExamples:\n"
    "  stagecue event import schedule.ics --dry-run\n"
    "  curl -s https://example.org/live.ics | stagecue event import - --source example\n"
    "  stagecue event import schedule.ics --strict --json\n",
)
@click.argument("file", type=click.File("rb"))
@click.option("--source", default="import", show_default=True, help="Name of the feed; it owns what it creates.")
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing.")
@click.option("--from", "from_", help="RFC 3339.  [default: a day ago]")
@click.option("--until", help="RFC 3339.  [default: 400 days ahead]")
@click.option("--strict", is_flag=True, help="Exit with 1 if anything was rejected (the good entries are taken).")
@_as_json
@_connected
def import_calendar(
    client: ApiClient, file: Any, source: str, dry_run: bool, from_: str | None, until: str | None, strict: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Take an iCalendar FILE (- is standard input): good entries are taken, bad ones listed by line.

    Safe to repeat: a known entry is moved or left alone, never doubled.
    """
    from stagecue.commands.event_tables import show_import

    query = {"source": source, "dry_run": str(dry_run).lower(), "from": from_, "until": until}
    report = client.call("POST", "/v1/feeds/import", calendar=file.read(), query=query)
    _print_json(report) if as_json else show_import(report)
    if strict and report["rejected"]:
        raise click.exceptions.Exit(1)


def _show_change(client: ApiClient, changed: dict[str, Any]) -> None:
    from stagecue.commands.event_tables import show_change

    show_change(changed, client.call("GET", _path(changed["id"], "/broadcasts"))["items"])
