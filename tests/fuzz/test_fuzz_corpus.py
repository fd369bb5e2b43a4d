"""Replay the fuzzers' corpus: cases by hand, what the fuzzers found, and what led them to new code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.inputs import check_dgs_request, check_request_head, check_websocket

_CORPUS = Path(__file__).parent / "corpus"
_CASES = [
    pytest.param(check, path.read_bytes(), id=f"{folder}/{path.name}")
    for folder, check in (("websocket", check_websocket), ("request_head", check_request_head))
    for path in sorted((_CORPUS / folder).iterdir())
]


@pytest.mark.parametrize(("check", "data"), _CASES)
def test_replay(check: Callable[[bytes], None], data: bytes) -> None:
    """Each keeps its verdict, in whole, in the slices it names, and byte by byte."""
    check(data)
    check(data[:1] + b"\x01" + data[2:])


@pytest.mark.parametrize(
    "path", sorted(_CORPUS.glob("*request*/*")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_replay_for_the_dgs(path: Path) -> None:
    """Its own corpus, and what was found for the reader of the push node."""
    data = path.read_bytes()[path.parent.name == "request_head" :]
    check_dgs_request(data)
    check_dgs_request(b"\x01" + data[1:])
    check_dgs_request(b"\x01" + data[1:] + b"\r\n\r\n")
