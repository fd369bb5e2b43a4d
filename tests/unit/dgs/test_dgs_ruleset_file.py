"""A ruleset that cannot be used is refused with file, table and field, and changes nothing while the service runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contract.errors import InvalidRequest
from dgs.priority.rules import Ruleset
from dgs.priority.ruleset_file import DEFAULT_RULESET, RulesetFile, RulesetWatch, parse_ruleset

CLASSES = """
[classes.critical]
sheds = [0.0, 0.1]
[classes.degraded]
sheds = [0.1, 0.5]
[classes.best_effort]
sheds = [0.5, 0.8]
[classes.bulk]
sheds = [0.8, 1.0]
"""
RULE = '[[rules]]\nname = "polls"\n'


def test_a_file_with_everything_is_understood() -> None:
    """Every field once."""
    text = f"""default = "degraded"
    {CLASSES}
    share = 0.25
    [phases]
    window_before_s = 7200
    [[rules]]
    name = "polls"
    class = "bulk"
    dry_run = true
    [rules.match]
    operations = ["prefetchEvent"]
    kinds = ["WEB"]
    phases = ["window"]
    asked = ["bulk"]
    has_map = true
    events = ["e"]
    [rules.when]
    requests_per_s = {{ on = 8000, off = 6000.5 }}
    queue_delay_ms = {{ on = 5, off = 2 }}
    phases = ["stage"]
    off_after_s = 10
    """
    ruleset = parse_ruleset(text, "rules.toml")
    assert ruleset.default == "degraded"
    assert ruleset.classes["bulk"].share == 0.25
    assert ruleset.phases.window_before_s == 7200
    (rule,) = ruleset.rules
    assert (rule.klass, rule.dry_run, rule.match.has_map) == ("bulk", True, True)
    assert rule.when is not None
    assert rule.when.requests_per_s is not None
    assert rule.when.requests_per_s.off == 6000.5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rules = 1 2", ("no TOML", "line 1")),
        (CLASSES + 'colour = "red"', ("classes.bulk", "colour")),
        ('colour = "red"' + CLASSES, ("colour",)),
        ('default = "urgent"' + CLASSES, ("default", "urgent")),
        (CLASSES.replace("[0.5, 0.8]", "[0.8, 0.5]"), ("classes.best_effort.sheds", "0.8")),
        (CLASSES.replace("[0.5, 0.8]", "[0.5]"), ("classes.best_effort.sheds", "length 2")),
        (CLASSES + "[classes.vip]\nsheds = [0.0, 1.0]", ("classes: Invalid", "vip")),
        (CLASSES.replace("[classes.bulk]", "[bulk]"), ("bulk",)),
        ("classes = 3", ("classes", "int")),
        ("", ("classes",)),
        (CLASSES + "share = 1.5", ("classes.bulk.share", "1.5")),
        (CLASSES + "share = nan", ("classes.bulk.share", "nan")),
        (CLASSES.replace("[classes.bulk]\nsheds = [0.8, 1.0]", ""), ("classes", "bulk not given")),
        (CLASSES.replace("sheds = [0.0, 0.1]", "sheds = [0.0, 0.1]\nshare = 0"), ("classes.critical.share",)),
        (CLASSES + "[phases]\nwindow_before_s = -1", ("phases.window_before_s", "-1")),
        (CLASSES + '[phases]\nwindow_before_s = "1h"', ("phases.window_before_s", "str")),
        (CLASSES + "[phases]\nwindow_hours = 1", ("phases", "window_hours")),
        (CLASSES + RULE, ('rules[0] "polls"', "exactly one")),
        (CLASSES + RULE + 'class = "bulk"\nshare = 0.5', ('rules[0] "polls"', "2 of class")),
        (CLASSES + RULE + 'klass = "bulk"', ('rules[0] "polls"', "klass")),
        (CLASSES + RULE + 'class = "vip"', ('rules[0] "polls".class', "vip")),
        (CLASSES + RULE + "class = 3", ('rules[0] "polls".class', "int")),
        (CLASSES + RULE + "limit_per_s = -1", ('rules[0] "polls".limit_per_s', "-1")),
        (CLASSES + RULE + "limit_per_s = inf", ('rules[0] "polls".limit_per_s', "inf")),
        (CLASSES + RULE + "share = 2", ('rules[0] "polls".share', "2")),
        (CLASSES + RULE + 'class = "bulk"\nmatch = { kind = ["TV"] }', ('rules[0] "polls".match', "kind")),
        (CLASSES + RULE + 'class = "bulk"\nmatch = { kinds = "TV" }', ('rules[0] "polls".match.kinds', "str")),
        (CLASSES + RULE + 'class = "bulk"\nmatch = { kinds = [] }', ('rules[0] "polls".match.kinds', "empty")),
        (CLASSES + RULE + 'class = "bulk"\nmatch = { phases = ["soon"] }', ('rules[0] "polls".match.phases', "soon")),
        (CLASSES + RULE + 'class = "bulk"\nwhen = { }', ('rules[0] "polls".when', "no trigger")),
        (CLASSES + RULE + 'class = "bulk"\nwhen = { queue_delay_ms = { on = 5 } }', ("queue_delay_ms", "off")),
        (
            CLASSES + RULE + 'class = "bulk"\nwhen = { queue_delay_ms = { on = 5, off = 6 } }',
            ('rules[0] "polls".when.queue_delay_ms', "off 6"),
        ),
        (CLASSES + RULE + 'class = "bulk"\nwhen = { phases = ["stage"], off_after_s = -1 }', ("when.off_after_s",)),
        (CLASSES + (RULE + 'class = "bulk"\n') * 2, ('rules[1] "polls".name', "twice")),
        (CLASSES + '[[rules]]\nname = "Polls of TVs"\nclass = "bulk"', ("rules[0]", ".name")),
        (CLASSES + '[[rules]]\nclass = "bulk"', ("rules[0]", "name")),
        (CLASSES + "".join(f'[[rules]]\nname = "r{n}"\nshare = 1\n' for n in range(201)), ("rules", "201")),
    ],
)
def test_what_cannot_be_used_is_named(text: str, named: tuple[str, ...]) -> None:
    """File first, then table and field, then what is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        parse_ruleset(text, "rules.toml")
    assert str(caught.value).startswith("rules.toml")
    for word in named:
        assert word in str(caught.value)


def test_the_rules_that_ship_can_be_used() -> None:
    """Whoever starts without a file has them."""
    assert RulesetFile().path == DEFAULT_RULESET
    assert len(RulesetFile().ruleset.rules) >= 6


def test_a_file_that_is_missing_or_broken_ends_the_start(tmp_path: Path) -> None:
    """Named, before anything is served."""
    with pytest.raises(InvalidRequest, match=r"none\.toml"):
        RulesetFile(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        RulesetFile(tmp_path / "bytes.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (256 * 1024 + 1))
    with pytest.raises(InvalidRequest, match="over 262144 bytes"):
        RulesetFile(tmp_path / "huge.toml")


def write(path: Path, text: str, at: int) -> None:
    """`at` makes the time differ whatever the file system's resolution is."""
    path.write_text(text)
    os.utime(path, ns=(at * 10**9, at * 10**9))


def test_a_bad_version_changes_nothing_and_is_told_once(tmp_path: Path) -> None:
    """The old rules stay; the error stands until the file is mended; one line in the log per version."""
    path = tmp_path / "rules.toml"
    write(path, CLASSES, 1)
    file = RulesetFile(path)
    before = file.ruleset
    write(path, CLASSES + 'colour = "red"', 2)
    with capture_logs() as logs:
        assert [file.check() for _ in range(5)] == [None] * 5
    assert file.ruleset is before
    assert file.error is not None
    assert "colour" in file.error
    assert (file.failures, [entry["event"] for entry in logs]) == (1, ["ruleset_refused"])
    assert file.status()["error"] == file.error
    path.unlink()
    assert file.check() is None
    assert (file.failures, file.ruleset) == (2, before)
    write(path, CLASSES, 3)
    assert file.check() is None, "the version in force is back: nothing to take over"
    assert file.error is None
    write(path, 'default = "bulk"' + CLASSES, 4)
    after = file.check()
    assert after is not None
    assert after.default == "bulk"
    assert (file.error, file.loads) == (None, 2)


def test_a_touched_file_is_not_another_version(tmp_path: Path) -> None:
    """Time alone changes nothing; nor does a look at a file nobody touched."""
    path = tmp_path / "rules.toml"
    write(path, CLASSES, 1)
    file = RulesetFile(path)
    assert file.check() is None
    write(path, CLASSES, 2)
    assert (file.check(), file.loads) == (None, 1)


async def test_the_watch_hands_over_what_is_new_and_ends_at_once(tmp_path: Path) -> None:
    """A second version arrives within a look; the stop does not wait for the next one."""
    path = tmp_path / "rules.toml"
    write(path, CLASSES, 1)
    file = RulesetFile(path)
    taken: list[Ruleset] = []
    got = asyncio.Event()

    def use(ruleset: Ruleset) -> None:
        taken.append(ruleset)
        got.set()

    ready, stop = asyncio.Event(), asyncio.Event()
    watch = asyncio.create_task(RulesetWatch(file, use, every_s=0.01).run(ready, stop))
    async with asyncio.timeout(10):
        await ready.wait()
        write(path, 'default = "bulk"' + CLASSES, 2)
        await got.wait()
        stop.set()
        await watch
    assert [ruleset.default for ruleset in taken] == ["bulk"]
