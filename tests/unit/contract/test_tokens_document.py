"""docs/tokens.md shows a key file that is one, and says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from contract.token_rings import read_rings
from contract.tokens import LEEWAY_S, MAX_TOKEN_BYTES
from stagecue.commands.keys import keys

TEXT = (Path(__file__).parents[3] / "docs" / "tokens.md").read_text("utf-8")


def test_the_key_file_shown_is_one():
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    rings = read_rings(example.encode())
    device = rings["stagecue.device"]
    assert device.ring("stagecue.device", 1731722409).signing_kid == "k1"
    assert device.ring("stagecue.device", 1731722410).signing_kid == "k2"
    assert device.ring("stagecue.device", 1732327210).kids == ("k2", "partner-1")
    for audience in ("stagecue.operator", "stagecue.link", "stagecue.profile"):
        assert rings[audience].ring(audience, 0).kids == ("k1",)


def test_limits_are_those_of_the_code():
    assert f"{LEEWAY_S} s of clock difference" in TEXT
    assert f"more than {MAX_TOKEN_BYTES:,} bytes" in TEXT


def test_commands_shown_exist():
    shown = set(re.findall(r"stagecue keys ([a-z]+)", TEXT))
    assert shown == set(keys.commands)
