"""An entry of a feed -> the event it asks for: its stages come from a template. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from contract.durations import parse_duration
from contract.errors import InvalidRequest
from contract.names import RESERVED_STAGE_KEYS, check_stage_key
from message_producer.feeds.model import FeedEntry
from message_producer.model import Anchor, EventDraft, Stage

__all__ = ["DEFAULT_TEMPLATE", "StageTemplate", "draft_of", "load_template"]

_FIELDS: Final = frozenset({"key", "anchor", "offset", "headline"})
_MAX_STAGES: Final = 50
_MAX_HEADLINE: Final = 200
_TITLE: Final = "{title}"


class StageTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """Stages every event gets unless it names its own; `{title}` in a headline stands for the event's title."""

    stages: tuple[Stage, ...]

    def stages_for(self, title: str) -> tuple[Stage, ...]:
        return tuple(
            msgspec.structs.replace(stage, headline=stage.headline.replace(_TITLE, title)[:_MAX_HEADLINE])
            for stage in self.stages
        )


DEFAULT_TEMPLATE: Final = StageTemplate(
    stages=(
        Stage(key="upcoming", anchor=Anchor.START, offset_ms=-24 * 3_600_000, headline="Coming up: {title}"),
        Stage(key="starting_soon", anchor=Anchor.START, offset_ms=-15 * 60_000, headline="Starting soon: {title}"),
        Stage(key="live", anchor=Anchor.START, offset_ms=0, headline="Live now: {title}"),
        Stage(key="ended", anchor=Anchor.END, offset_ms=0, headline="{title} has ended"),
        Stage(key="replay", anchor=Anchor.END, offset_ms=30 * 60_000, headline="Watch the replay of {title}"),
    )
)


def draft_of(entry: FeedEntry, template: StageTemplate, source: str) -> EventDraft:
    """The event `entry` asks for, owned by feed `source`."""
    return EventDraft(
        event_id=entry.event_id,
        title=entry.title,
        starts_at=entry.starts_at,
        ends_at=entry.ends_at,
        time_zone=entry.time_zone,
        stages=template.stages_for(entry.title),
        source=source,
        source_uid=entry.source_uid,
    )


def load_template(text: str) -> StageTemplate:
    """A template from TOML: `[[stages]]` tables with `key`, `anchor` (start, end, manual), `offset`, `headline`.

    Raises InvalidRequest naming the field and the rule.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise InvalidRequest(str(exc), field="template", rule="TOML with [[stages]] tables") from exc
    unknown = sorted(set(document) - {"stages"})
    if unknown:
        raise InvalidRequest("unknown field", field=unknown[0], rule="[[stages]] tables alone")
    tables = document.get("stages")
    if not isinstance(tables, list) or not 1 <= len(tables) <= _MAX_STAGES:
        raise InvalidRequest("no list of stages", field="stages", rule=f"1 to {_MAX_STAGES} [[stages]] tables")
    stages = tuple(_stage(table, f"stages[{index}]") for index, table in enumerate(tables))
    keys = [stage.key for stage in stages]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise InvalidRequest(f"{key!r} is there twice", field=f"stages[{index}].key", rule="each key once")
    return StageTemplate(stages=stages)


def _stage(table: object, path: str) -> Stage:
    if not isinstance(table, Mapping):
        raise InvalidRequest("not a table", field=path, rule="a [[stages]] table")
    unknown = sorted(set(table) - _FIELDS)
    if unknown:
        raise InvalidRequest("unknown field", field=f"{path}.{unknown[0]}", rule=f"one of {', '.join(sorted(_FIELDS))}")
    key = check_stage_key(_text(table, "key", path), f"{path}.key")
    if key in RESERVED_STAGE_KEYS:
        raise InvalidRequest(f"{key!r} is reserved", field=f"{path}.key", rule="every event has this stage already")
    anchor = _anchor(_text(table, "anchor", path, "start"), f"{path}.anchor")
    offset = _text(table, "offset", path, "PT0S")
    if anchor is Anchor.MANUAL and "offset" in table:
        raise InvalidRequest("a manual stage has no time", field=f"{path}.offset", rule="offset with start or end")
    headline = _text(table, "headline", path, "")
    if "{" in headline.replace(_TITLE, ""):
        raise InvalidRequest(f"{headline[:60]!r}", field=f"{path}.headline", rule="{title} is the only placeholder")
    if len(headline) > _MAX_HEADLINE:
        raise InvalidRequest("too long", field=f"{path}.headline", rule=f"at most {_MAX_HEADLINE} characters")
    return Stage(key=key, anchor=anchor, offset_ms=parse_duration(offset, f"{path}.offset"), headline=headline)


def _text(table: Mapping[str, Any], name: str, path: str, default: str | None = None) -> str:
    value = table.get(name, default)
    if not isinstance(value, str):
        what = "missing" if value is None else "not text"
        raise InvalidRequest(what, field=f"{path}.{name}", rule="text in quotes")
    return value


def _anchor(text: str, field: str) -> Anchor:
    allowed = (Anchor.START, Anchor.END, Anchor.MANUAL)
    if text not in allowed:
        raise InvalidRequest(f"{text[:40]!r}", field=field, rule=f"one of {', '.join(allowed)}")
    return Anchor(text)
