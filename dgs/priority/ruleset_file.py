"""Rulesets in files: TOML -> Ruleset, refused with file, table and field; looked at anew every few seconds.

A file that cannot be used changes nothing: the rules before it stay, and why is in /status, in a metric and in one line
of the log, until the file is mended.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from contract.errors import InvalidRequest
from dgs.priority.rules import ClassPlan, PhaseTimes, Rule, Ruleset, Trigger, When
from dgs.serving import CLASSES, Class

__all__ = ["DEFAULT_RULESET", "RulesetFile", "RulesetWatch", "parse_ruleset"]

_log = structlog.get_logger(__name__)
DEFAULT_RULESET: Final = Path(__file__).with_name("default.toml")
_MAX_BYTES: Final = 256 * 1024
_MAX_RULES: Final = 200
_WHERE: Final = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$(?P<path>[^`]*)`)?$", re.DOTALL)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


def parse_ruleset(text: str, name: str) -> Ruleset:
    """Raises InvalidRequest whose text begins with `name` and the table and field at fault."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"no TOML: {exc}", field=name) from exc
    try:
        ruleset = msgspec.convert(document, Ruleset)
    except msgspec.ValidationError as exc:
        found = _WHERE.match(str(exc))
        what, path = (found["what"], found["path"]) if found else (str(exc), "")
        raise _refused(name, _table(path or "", document), what) from exc
    _check(ruleset, name)
    return ruleset


class RulesetFile:
    """One file, and the last ruleset of it that could be used. Blocking; `check` costs one stat if nothing changed."""

    def __init__(self, path: Path | None = None) -> None:
        """None: the rules that ship. Raises InvalidRequest if the file cannot be used at the start."""
        self.path = path or DEFAULT_RULESET
        self.error: str | None = None
        """Why the file as it is now is not in force; None: it is."""
        self.failures = 0
        """How many versions of the file were refused."""
        self.loads = 0
        self.digest = ""
        """Of the version in force, in hex."""
        self._stamp: tuple[int, int, int] | None = None
        self._looked_at = ""
        self.ruleset = self._read_first()

    def check(self) -> Ruleset | None:
        """Another ruleset than before, or None. Never raises: see `error`."""
        try:
            stat = self.path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._stamp:
                return None
            text, digest = _read(self.path)
        except (OSError, InvalidRequest) as exc:
            self._stamp = None
            self._refuse(str(exc), f"unreadable {exc}")
            return None
        self._stamp = stamp
        if digest == self.digest:
            self.error, self._looked_at = None, digest
            return None
        try:
            ruleset = parse_ruleset(text, str(self.path))
        except InvalidRequest as exc:
            self._refuse(str(exc), digest)
            return None
        self._take(ruleset, digest)
        _log.info("ruleset_loaded", path=str(self.path), digest=digest, rules=len(ruleset.rules))
        return ruleset

    def status(self) -> dict[str, object]:
        """For /status."""
        return {"path": str(self.path), "digest": self.digest, "error": self.error, "refused_versions": self.failures}

    def _read_first(self) -> Ruleset:
        try:
            text, digest = _read(self.path)
        except OSError as exc:
            raise InvalidRequest(f"cannot be read: {exc.strerror}", field=str(self.path)) from exc
        ruleset = parse_ruleset(text, str(self.path))
        self._take(ruleset, digest)
        return ruleset

    def _take(self, ruleset: Ruleset, digest: str) -> None:
        self.ruleset = ruleset
        self.digest = self._looked_at = digest
        self.error = None
        self.loads += 1

    def _refuse(self, why: str, version: str) -> None:
        self.error = why
        if version != self._looked_at:  # once per version of the file, not per look
            self._looked_at = version
            self.failures += 1
            _log.error("ruleset_refused", path=str(self.path), why=why, in_force=self.digest)


class RulesetWatch:
    """A service: looks at the file every few seconds, in a thread, and hands a new ruleset to `use` on the loop."""

    name = "dgs.ruleset"

    def __init__(self, file: RulesetFile, use: Callable[[Ruleset], None], *, every_s: float) -> None:
        self._file = file
        self._use = use
        self._every_s = every_s

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        ready.set()
        while not stop.is_set():
            ruleset = await asyncio.to_thread(self._file.check)
            if ruleset is not None:
                self._use(ruleset)
            try:
                async with asyncio.timeout(self._every_s):
                    await stop.wait()
            except TimeoutError:
                continue


def _read(path: Path) -> tuple[str, str]:
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise InvalidRequest(f"over {_MAX_BYTES} bytes", field=str(path))
    try:
        return content.decode("utf-8"), hashlib.blake2b(content, digest_size=8).hexdigest()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"not UTF-8 at byte {exc.start}", field=str(path)) from exc


def _refused(name: str, where: str, what: str, rule: str | None = None) -> InvalidRequest:
    return InvalidRequest(what, field=f"{name}: {where}" if where else name, rule=rule)


def _table(path: str, document: dict[str, Any]) -> str:
    """`.rules[2].match` -> `rules[2] "refresh".match`: an index is hard to count in a file."""
    where = path.removeprefix(".")
    if where.startswith("classes[...]"):
        return f"classes.{_bad_class(document['classes'])}{where.removeprefix('classes[...]')}"
    found = re.match(r"rules\[(\d+)\]", where)
    if found is None:
        return where
    try:
        named = str(document["rules"][int(found[1])]["name"])[:64]
    except (KeyError, TypeError, IndexError):
        return where
    return f'{found[0]} "{named}"{where[found.end() :]}'


def _bad_class(plans: dict[str, Any]) -> str:
    """Which of them it is: the decoder does not say."""
    for klass, plan in plans.items():
        try:
            msgspec.convert(plan, ClassPlan)
        except msgspec.ValidationError:
            return klass
    return "[...]"


def _check(ruleset: Ruleset, name: str) -> None:
    """What types cannot say."""
    missing = [klass for klass in CLASSES if klass not in ruleset.classes]
    if missing:
        raise _refused(name, "classes", f"{', '.join(missing)} not given", "every class has a table")
    for klass in CLASSES:
        _check_class(ruleset.classes[klass], klass, name)
    if ruleset.classes["critical"].share == 0.0:
        raise _refused(name, "classes.critical.share", "0 serves nobody", "above 0")
    for field in PhaseTimes.__struct_fields__:
        _within(getattr(ruleset.phases, field), 0, 366 * 86_400, name, f"phases.{field}")
    if len(ruleset.rules) > _MAX_RULES:
        raise _refused(name, "rules", f"{len(ruleset.rules)} rules", f"at most {_MAX_RULES}")
    names: set[str] = set()
    for index, rule in enumerate(ruleset.rules):
        where = f'rules[{index}] "{rule.name[:64]}"'
        if not _NAME.fullmatch(rule.name):
            raise _refused(name, f"{where}.name", "no name", "a-z, 0-9, _ . and -, at most 64, a label in metrics")
        if rule.name in names:
            raise _refused(name, f"{where}.name", "given twice")
        names.add(rule.name)
        _check_rule(rule, name, where)


def _check_class(plan: ClassPlan, klass: Class, name: str) -> None:
    _within(plan.share, 0, 1, name, f"classes.{klass}.share")
    first, last = plan.sheds
    if not 0 <= first < last <= 1:
        raise _refused(
            name, f"classes.{klass}.sheds", f"[{first:g}, {last:g}]", "two priorities, 0 <= first < last <= 1"
        )


def _check_rule(rule: Rule, name: str, where: str) -> None:
    actions = [rule.klass is not None, rule.limit_per_s is not None, rule.share is not None]
    if sum(actions) != 1:
        raise _refused(name, where, f"{sum(actions)} of class, limit_per_s and share", "exactly one")
    if rule.limit_per_s is not None:
        _within(rule.limit_per_s, 0, 1e9, name, f"{where}.limit_per_s")
    if rule.share is not None:
        _within(rule.share, 0, 1, name, f"{where}.share")
    for field in ("operations", "kinds", "phases", "asked", "events"):
        if getattr(rule.match, field) == frozenset():
            raise _refused(name, f"{where}.match.{field}", "empty", "it would match nothing; leave it out for anything")
    if rule.when is not None:
        _check_when(rule.when, name, f"{where}.when")


def _check_when(when: When, name: str, where: str) -> None:
    _within(when.off_after_s, 0, 86_400, name, f"{where}.off_after_s")
    triggers: dict[str, Trigger | None] = {
        "requests_per_s": when.requests_per_s,
        "queue_delay_ms": when.queue_delay_ms,
    }
    if not when.phases and not any(triggers.values()):
        raise _refused(name, where, "no trigger", "requests_per_s, queue_delay_ms or phases; without `when`: always")
    for field, trigger in triggers.items():
        if trigger is None:
            continue
        _within(trigger.on, 0, 1e9, name, f"{where}.{field}.on")
        _within(trigger.off, 0, 1e9, name, f"{where}.{field}.off")
        if not 0 < trigger.off <= trigger.on:
            raise _refused(
                name, f"{where}.{field}", f"off {trigger.off:g}, on {trigger.on:g}", "0 < off <= on, or it never ends"
            )


def _within(value: float, least: float, most: float, name: str, where: str) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise _refused(name, where, f"{value:.9g}", f"{least:.9g} to {most:.9g}")
