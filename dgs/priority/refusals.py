"""The answer of a shed request: prebuilt bytes and two numbers, since refusing must cost less than serving. Pure.

HTTP 503, Retry-After in whole seconds, rounded up
{"errors":[{"message":"...","extensions":{"code":"overloaded","retryAfterMs":5210,"retryBudget":0.05}}]}
"""

from __future__ import annotations

from typing import Final

from dgs.serving import Answer, Verdict

__all__ = ["refusal"]

_HEAD: Final = (
    b"Content-Type: application/json; charset=utf-8\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    b"Retry-After: %d\r\n"
)
_BODY: Final = (
    b'{"errors":[{"message":"Too much is asked at once; this request was not served.",'
    b'"extensions":{"code":"overloaded","retryAfterMs":%d,"retryBudget":%b}}]}'
)
_BUDGETS: Final = tuple(b"%.3f" % (thousandths / 1_000) for thousandths in range(1_001))
_HEADS: Final = tuple(_HEAD % seconds for seconds in range(64))
"""Whatever DGS_RETRY_AFTER_MEAN_MS makes of it usually; others are built."""


def refusal(verdict: Verdict, retry_budget: float = 0.1) -> Answer:
    """`retry_budget`: share of a client's requests that may be retries, see `retry_after.retry_budget`."""
    seconds = -(-verdict.retry_after_ms // 1000)
    head = _HEADS[seconds] if seconds < len(_HEADS) else _HEAD % seconds
    return Answer(503, head, _BODY % (verdict.retry_after_ms, _BUDGETS[int(retry_budget * 1_000 + 0.5)]))
