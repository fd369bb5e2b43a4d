"""Which drafts and changes are acceptable; every refusal names the field and the rule. Pure.

Time zones are checked by the interfaces, which own the zone database; here a zone is a bounded name.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from contract.errors import InvalidRequest, UnknownStage
from contract.names import RESERVED_STAGE_KEYS, check_audience, check_event_id, check_stage_key
from message_producer.drafts import due_at
from message_producer.model import Anchor, Audience, EventDraft, Stage
from message_producer.shadows import SHADOW_SOURCE

__all__ = [
    "AUDIENCES_MAX",
    "INSTANT_MAX_MS",
    "OFFSET_MAX_MS",
    "STAGES_MAX",
    "TITLE_MAX_CHARS",
    "check_cue",
    "check_draft",
    "check_shift",
]

STAGES_MAX: Final = 64
AUDIENCES_MAX: Final = 32
REGIONS_MAX: Final = 300
TITLE_MAX_CHARS: Final = 200
OFFSET_MAX_MS: Final = 366 * 24 * 3600 * 1000
INSTANT_MAX_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999: later instants have no RFC 3339 form."""
BUDGET_MAX_PER_HOUR: Final = 3600


def check_draft(draft: EventDraft) -> EventDraft:
    """Return `draft`, or raise InvalidRequest or UnknownStage naming the first field at fault."""
    check_event_id(draft.event_id)
    _check_text(draft.title, "title", at_least=1, at_most=TITLE_MAX_CHARS)
    _check_text(draft.time_zone, "time_zone", at_least=1, at_most=64)
    _check_text(draft.source, "source", at_least=1, at_most=200)
    if (draft.source == SHADOW_SOURCE) is not (draft.shadow_of is not None):
        raise InvalidRequest(f"{draft.source!r} is no source here", field="source", rule="`shadow`: rehearsals alone")
    if draft.source_uid is not None:
        _check_text(draft.source_uid, "source_uid", at_least=1, at_most=1000)
    _check_instant(draft.starts_at, "starts_at")
    if draft.ends_at is not None:
        _check_instant(draft.ends_at, "ends_at")
        if draft.ends_at < draft.starts_at:
            raise InvalidRequest("lies before the start", field="ends_at", rule="not before starts_at")
    if not 0 <= draft.coverage_threshold <= 1:
        raise InvalidRequest(
            f"{draft.coverage_threshold} is out of range", field="coverage_threshold", rule="a share between 0 and 1"
        )
    if not 1 <= draft.broadcast_budget_per_hour <= BUDGET_MAX_PER_HOUR:
        raise InvalidRequest(
            f"{draft.broadcast_budget_per_hour} is out of range",
            field="broadcast_budget_per_hour",
            rule=f"between 1 and {BUDGET_MAX_PER_HOUR}",
        )
    _check_stages(draft.stages)
    _check_audiences(draft)
    for index, audience in enumerate(draft.audiences):
        _check_order(draft, audience, index)
    return draft


def check_shift(by_ms: int) -> int:
    """Return `by_ms`, or raise InvalidRequest when it moves nothing or leaves the calendar."""
    if by_ms == 0:
        raise InvalidRequest("moves nothing", field="by", rule="a duration other than zero")
    if abs(by_ms) > OFFSET_MAX_MS:
        raise InvalidRequest("is too far", field="by", rule="at most 366 days either way")
    return by_ms


def check_cue(stage_key: str, known: Collection[str]) -> str:
    """Return `stage_key`, or raise UnknownStage naming the keys that can be cued."""
    if stage_key not in known:
        raise UnknownStage(
            f"{stage_key[:80]!r} cannot be cued", field="stage", rule="one of " + ", ".join(known) if known else "none"
        )
    return stage_key


def _check_text(value: str, field: str, *, at_least: int, at_most: int) -> None:
    if not at_least <= len(value) <= at_most or (at_least and not value.strip()):
        raise InvalidRequest(
            f"has {len(value)} characters", field=field, rule=f"{at_least}-{at_most} characters, not only blanks"
        )
    if "\0" in value:
        raise InvalidRequest("contains a NUL character", field=field, rule="text without NUL: not every store keeps it")


def _check_instant(value: int, field: str) -> None:
    if not 0 <= value <= INSTANT_MAX_MS:
        raise InvalidRequest(f"{value} is out of range", field=field, rule="between the years 1970 and 9999")


def _check_stages(stages: tuple[Stage, ...]) -> None:
    if not 1 <= len(stages) <= STAGES_MAX:
        raise InvalidRequest(f"has {len(stages)} entries", field="stages", rule=f"1-{STAGES_MAX} stages")
    seen: dict[str, int] = {}
    for index, stage in enumerate(stages):
        field = f"stages[{index}]"
        check_stage_key(stage.key, f"{field}.key")
        if stage.key in RESERVED_STAGE_KEYS:
            raise InvalidRequest(
                f"{stage.key!r} is reserved",
                field=f"{field}.key",
                rule="every event has " + " and ".join(sorted(RESERVED_STAGE_KEYS)),
            )
        if stage.key in seen:
            raise InvalidRequest(
                f"{stage.key!r} was used by stages[{seen[stage.key]}]", field=f"{field}.key", rule="keys are unique"
            )
        seen[stage.key] = index
        _check_text(stage.headline, f"{field}.headline", at_least=0, at_most=TITLE_MAX_CHARS)
        _check_anchor(stage, field)


def _check_anchor(stage: Stage, field: str) -> None:
    if stage.anchor is Anchor.ABSOLUTE:
        if stage.at is None:
            raise InvalidRequest("is missing", field=f"{field}.at", rule="an absolute stage says when")
        _check_instant(stage.at, f"{field}.at")
    elif stage.at is not None:
        raise InvalidRequest("was given", field=f"{field}.at", rule="only with the anchor `absolute`")
    if stage.offset_ms and stage.anchor in (Anchor.ABSOLUTE, Anchor.MANUAL):
        raise InvalidRequest("was given", field=f"{field}.offset", rule="only with the anchors `start` and `end`")
    _check_offset(stage.offset_ms, f"{field}.offset")


def _check_offset(offset_ms: int, field: str) -> None:
    if abs(offset_ms) > OFFSET_MAX_MS:
        raise InvalidRequest(f"{offset_ms} ms is too far", field=field, rule="at most 366 days either way")


def _check_audiences(draft: EventDraft) -> None:
    if not 1 <= len(draft.audiences) <= AUDIENCES_MAX:
        raise InvalidRequest(
            f"has {len(draft.audiences)} entries", field="audiences", rule=f"1-{AUDIENCES_MAX} audiences"
        )
    stages = {stage.key: stage for stage in draft.stages}
    names: set[str] = set()
    claimed: dict[str, str] = {}
    open_to_all: str | None = None
    for index, audience in enumerate(draft.audiences):
        field = f"audiences[{index}]"
        check_audience(audience.name, f"{field}.name")
        if audience.name in names:
            raise InvalidRequest(f"{audience.name!r} is used twice", field=f"{field}.name", rule="names are unique")
        names.add(audience.name)
        if not audience.regions:
            if open_to_all is not None:
                raise InvalidRequest(
                    f"is empty, as that of {open_to_all!r} is",
                    field=f"{field}.regions",
                    rule="one audience at most takes everyone no other claims",
                )
            open_to_all = audience.name
        _check_regions(audience, field, claimed)
        _check_audience_stages(audience, field, stages)


def _check_regions(audience: Audience, field: str, claimed: dict[str, str]) -> None:
    if len(audience.regions) > REGIONS_MAX:
        raise InvalidRequest("is too long", field=f"{field}.regions", rule=f"at most {REGIONS_MAX} regions")
    for number, region in enumerate(audience.regions):
        where = f"{field}.regions[{number}]"
        if not (len(region) == 2 and region.isascii() and region.isalpha() and region.isupper()):
            raise InvalidRequest(f"{region[:80]!r} is no region", field=where, rule="ISO 3166-1 alpha-2, as `US`")
        if region in claimed:
            raise InvalidRequest(
                f"{region} belongs to {claimed[region]!r}", field=where, rule="a region has one audience"
            )
        claimed[region] = audience.name


def _check_audience_stages(audience: Audience, field: str, stages: dict[str, Stage]) -> None:
    if audience.stages is not None:
        if not audience.stages:
            raise InvalidRequest("is empty", field=f"{field}.stages", rule="leave it out for all stages")
        for number, key in enumerate(audience.stages):
            where = f"{field}.stages[{number}]"
            if key not in stages:
                raise UnknownStage(f"{key[:80]!r} is no stage", field=where, rule="one of " + ", ".join(stages))
            if key in audience.stages[:number]:
                raise InvalidRequest(f"{key!r} is listed twice", field=where, rule="keys are unique")
    for key, offset_ms in audience.offsets_ms.items():
        where = f"{field}.offsets.{key[:80]}"
        if key not in stages:
            raise UnknownStage("is no stage", field=where, rule="one of " + ", ".join(stages))
        if stages[key].anchor is Anchor.MANUAL:
            raise InvalidRequest("belongs to a manual stage", field=where, rule="only stages with a time have offsets")
        _check_offset(offset_ms, where)


def _check_order(draft: EventDraft, audience: Audience, number: int) -> None:
    """Due times rise, or stay, in the order listed; manual stages may stand anywhere."""
    before: tuple[int, str] | None = None
    for index, stage in enumerate(draft.stages):
        if audience.stages is not None and stage.key not in audience.stages:
            continue
        due = due_at(draft, audience, stage)
        if due is None:
            continue
        own = stage.key in audience.offsets_ms
        name = "at" if stage.anchor is Anchor.ABSOLUTE else "offset"
        field = f"audiences[{number}].offsets.{stage.key}" if own else f"stages[{index}].{name}"
        _check_instant(due, field)
        if before is not None and due < before[0]:
            raise InvalidRequest(
                f"{stage.key!r} is due {before[0] - due} ms before {before[1]!r}, which is listed first",
                field=field,
                rule="stages are listed in the order of their times",
            )
        before = (due, stage.key)
