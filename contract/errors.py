"""The closed tree of errors that callers branch on.

    BroadcastSystemError
    |-- InvalidRequest        400   the caller must change something
    |   |-- UnknownStage
    |   |-- MalformedFrame
    |   `-- MalformedCursor
    |-- Unauthorized          401   no valid token
    |-- Forbidden             403   a valid token that does not allow this
    |-- NotFound              404
    |-- Conflict              409
    |   |-- AlreadyDispatched
    |   |-- LeaseLost
    |   `-- RevisionConflict  412   If-Match named an older revision
    |-- Overloaded            429   try again later, elsewhere
    |   `-- BudgetSpent
    `-- Unavailable           503   retryable by nature
        |-- LogUnavailable
        |-- StoreUnavailable
        `-- NodeUnreachable

Adapters translate library errors exactly once (`raise X from exc`). Each error keeps its facts as attributes;
`code` is low-cardinality and safe as a metric label. Expected ends (closed normally, nothing due, duplicate
suppressed) are values, never exceptions.
"""

from __future__ import annotations

__all__ = [
    "AlreadyDispatched",
    "BroadcastSystemError",
    "BudgetSpent",
    "Conflict",
    "Forbidden",
    "InvalidRequest",
    "LeaseLost",
    "LogUnavailable",
    "MalformedCursor",
    "MalformedFrame",
    "NodeUnreachable",
    "NotFound",
    "Overloaded",
    "RevisionConflict",
    "StoreUnavailable",
    "Unauthorized",
    "Unavailable",
    "UnknownStage",
]


class BroadcastSystemError(Exception):
    """Base of every error of ours: `code` for machines, `str()` for people."""

    code = "internal"
    http_status = 500
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        rule: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        """Path of the offending field, e.g. `stages[2].offset`; None when no single field is at fault."""
        self.rule = rule
        """The rule that was broken, in a few words a person can act on."""
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        why = f" ({self.rule})" if self.rule else ""
        return f"{where}{self.message}{why}"


class InvalidRequest(BroadcastSystemError):
    code = "invalid_request"
    http_status = 400


class UnknownStage(InvalidRequest):
    code = "unknown_stage"


class MalformedFrame(InvalidRequest):
    code = "malformed_frame"


class MalformedCursor(InvalidRequest):
    code = "malformed_cursor"


class Unauthorized(BroadcastSystemError):
    code = "unauthorized"
    http_status = 401


class Forbidden(BroadcastSystemError):
    code = "forbidden"
    http_status = 403


class NotFound(BroadcastSystemError):
    code = "not_found"
    http_status = 404


class Conflict(BroadcastSystemError):
    code = "conflict"
    http_status = 409


class AlreadyDispatched(Conflict):
    code = "already_dispatched"


class LeaseLost(Conflict):
    code = "lease_lost"
    retryable = True


class RevisionConflict(Conflict):
    code = "revision_conflict"
    http_status = 412


class Overloaded(BroadcastSystemError):
    code = "overloaded"
    http_status = 429
    retryable = True


class BudgetSpent(Overloaded):
    code = "budget_spent"


class Unavailable(BroadcastSystemError):
    code = "unavailable"
    http_status = 503
    retryable = True


class LogUnavailable(Unavailable):
    code = "log_unavailable"


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class NodeUnreachable(Unavailable):
    code = "node_unreachable"
