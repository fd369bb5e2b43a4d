"""Replay the fuzzers' corpus: cases by hand, what the fuzzers found, and what led them to new code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.inputs import check_request_head, check_websocket

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
