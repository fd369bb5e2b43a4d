"""Goal: `python -m loadtest.users` refuses what somebody in a hurry types, in one line that names the fault.

Method: the command in this process; nothing gets as far as a process of its own.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from loadtest.users.cli import main, read_plan

DEVICES = ("--dgs", "http://127.0.0.1:1", "--event", "e")
PLAN = """
dgs_url = "http://127.0.0.1:1"
event_ids = ["e"]
[[crowds]]
name = "a"
kind = "browse"
users = 3
"""


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def refused(*arguments: str) -> str:
    found = asked(*arguments)
    assert found.exit_code == 2
    assert not isinstance(found.exception, Exception), found.exception
    return found.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dgs", "http://[bad", "--event", "e"), "dgs_url"),
        (("--dgs", "127.0.0.1:8401", "--event", "e"), "dgs_url"),
        (("--dgs", "http://127.0.0.1:8401/graphql", "--event", "e"), "without a path"),
        (("--dgs", "http://127.0.0.1:1", "--event", "no event"), "event_ids"),
        ((*DEVICES, "--push", "ws://127.0.0.1:8402"), "push_urls"),
        ((*DEVICES, "--compress", "inf"), "time_compression"),
        ((*DEVICES, "--compress", "nan"), "time_compression"),
        ((*DEVICES, "--header", "no-colon"), "NAME:VALUE"),
        ((*DEVICES, "--header", "X-A: \x07"), "crowds.headers"),
        ((*DEVICES, "--duration", "soon"), "no duration"),
        ((*DEVICES, "--surge", "10"), "--duration 60s or more"),
        ((*DEVICES, "--surge", "10", "--over", "3s", "--duration", "2m"), "--over and --surge"),
    ],
)
def test_a_wrong_option_is_named(options: tuple[str, ...], said: str) -> None:
    assert said in refused("browse", *options)


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("p.toml", b"duraton_s = 3\n" + PLAN.encode(), "nearest: duration_s"),
        ("p.toml", PLAN.encode() + b"thinks = 3\n", "nearest: think_"),
        ("p.toml", b"\xff\xfe", "not UTF-8"),
        ("p.toml", b"crowds = [", "p.toml"),
        ("p.json", b"", "p.json"),
        ("p.json", b" " * (2 << 20), "too large"),
        ("p.toml", PLAN.replace("browse", "brows").encode(), "brows"),
    ],
)
def test_a_wrong_plan_is_named_with_what_was_meant(tmp_path: Path, name: str, written: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(written)
    found = refused("run", str(path))
    assert said in found
    assert name in found


def test_a_plan_is_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(PLAN)
    assert [crowd.name for crowd in read_plan(path).crowds] == ["a"]


def test_a_file_that_is_no_token_is_named(tmp_path: Path) -> None:
    path = tmp_path / "token"
    operator = ("operate", "--producer", "http://127.0.0.1:1", "--token-file", str(path))
    for written in (b"\xc1\x80", b"", b"two\nlines"):
        path.write_bytes(written)
        assert "token" in refused(*operator)


def test_a_target_that_is_not_up_is_told_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    found = asked("browse", "--dgs", f"http://127.0.0.1:{port}", "--event", "e")
    assert found.exit_code == 2
    assert "the DGS is not up" in found.output


def test_keys_that_cannot_be_read_are_told_first(tmp_path: Path) -> None:
    there = ("browse", "--dgs", "http://127.0.0.1:1", "--event", "e")
    for directory in (tmp_path, tmp_path / "nowhere"):
        found = asked(*there, "--sign-profiles", str(directory))
        assert found.exit_code == 2
        assert f"no keys of stagecue.profile in {directory}" in found.output
    (tmp_path / "keys.json").write_text('{"stagecue.device": {}}')
    assert "no keys of stagecue.profile" in asked(*there, "--sign-profiles", str(tmp_path)).output


def test_a_target_outside_this_machine_wants_to_be_meant() -> None:
    found = asked("browse", "--dgs", "http://192.0.2.1", "--event", "e")
    assert found.exit_code == 2
    assert "--remote" in found.output
    assert "gevent" not in sys.modules
