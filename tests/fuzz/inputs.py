"""How a fuzzer's input becomes a stream, a limit and slices: what the harnesses and the corpus's replay share."""

from __future__ import annotations

from tests.fuzz import dgs_request_check, request_head_check, websocket_check

__all__ = ["check_dgs_request", "check_request_head", "check_websocket"]

_MESSAGE_LIMITS = (125, 126, 130, 200, 1000, 16_384)
_HEAD_LIMITS = (100, 128, 256, 400, 1000, 8192)


def check_websocket(data: bytes) -> None:
    """One input of `fuzz_websocket.py`."""
    if len(data) >= 2:
        stream = data[2:]
        websocket_check.check(stream, _slices(stream, data[1]), _MESSAGE_LIMITS[data[0] % len(_MESSAGE_LIMITS)])


def check_request_head(data: bytes) -> None:
    """One input of `fuzz_request_head.py`."""
    if len(data) >= 2:
        stream = data[2:]
        request_head_check.check(stream, _slices(stream, data[1]), _HEAD_LIMITS[data[0] % len(_HEAD_LIMITS)])


def check_dgs_request(data: bytes) -> None:
    """One input of `fuzz_dgs_request.py`."""
    if data:
        dgs_request_check.check(data[1:], _slices(data[1:], data[0]))


def _slices(stream: bytes, draw: int) -> list[bytes]:
    """Slices of one size, or for an even draw two of them."""
    if draw % 2 == 0:
        return websocket_check.cut(stream, [draw // 2])
    return websocket_check.cut(stream, list(range(0, len(stream), draw // 2 + 1)))
