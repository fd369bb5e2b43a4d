"""Goal: `stagecue device` refuses what cannot be before it asks anybody, and names the option."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from stagecue.commands.device import device


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing option '--event'"),
        (["--dgs", "127.0.0.1:8401"], "--dgs"),
        (["--dgs", "http://"], "--dgs"),
        (["--dgs", "http://127.0.0.1:99999"], "--dgs"),
        (["--push", "127.0.0.1:8402"], "--push"),
        (["--push", "ws://127.0.0.1:99999"], "--push"),
        (["--push", "ws://[::1/"], "--push"),
        (["--kind", "FRIDGE"], "--kind"),
        (["--for", "0"], "--for"),
        (["--offline-after", "-1"], "--offline-after"),
        (["--offline-for", "5"], "--offline-after"),
    ],
)
def test_what_cannot_be_is_refused_with_the_options_name(arguments: list[str], says: str) -> None:
    event = ["--event", "fight"] if arguments else []
    found = CliRunner().invoke(device, [*event, *arguments])
    assert (found.exit_code, says in found.output) == (2, True), found.output
