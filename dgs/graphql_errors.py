"""One error in GraphQL's form: what a client may know of it, and its code. Pure."""

from __future__ import annotations

from typing import Any, Final, Literal, cast, get_args

from graphql import GraphQLError

from contract.errors import BroadcastSystemError, Unavailable

__all__ = ["CODES", "INTERNAL_MESSAGE", "UNAVAILABLE_MESSAGE", "ErrorCode", "error_code", "format_error", "to_error"]

ErrorCode = Literal[
    "invalid_request",  # change it: the document, a variable, a header
    "malformed_request",  # no HTTP request at all
    "unauthorized",  # a token is needed, or the one shown is none
    "forbidden",  # not with this token, or not in this region
    "not_found",  # no such event, profile or title
    "persisted_query_not_found",  # send the document with its hash once
    "overloaded",  # come back after retryAfterMs
    "budget_spent",  # the same, for a budget of this caller's
    "timeout",  # it took too long: come back after retryAfterMs
    "unavailable",  # something behind this service does not answer: come back after retryAfterMs
    "store_unavailable",  # the same, the store
    "internal",  # a bug: the text is in the log
]
"""`extensions.code` of every error this service tells; clients branch on it, and metrics are labelled with it."""
CODES: Final[frozenset[ErrorCode]] = frozenset(get_args(ErrorCode))
INTERNAL_MESSAGE: Final = "Something went wrong in this service; the details are in its log."
UNAVAILABLE_MESSAGE: Final = "What this service asks for it does not answer now."


def error_code(error: GraphQLError) -> ErrorCode:
    """`extensions.code`: ours for our errors, `invalid_request` for a bad document, else `internal`."""
    cause = _cause(error)
    if cause is None:
        return "invalid_request"
    return _code_of(cause) if isinstance(cause, BroadcastSystemError) else "internal"


def format_error(error: GraphQLError, *, retry_after_ms: int) -> dict[str, Any]:
    """The error as it goes into `errors`; an unexpected one keeps its path and loses its text.

    `retry_after_ms` is told with a retryable error that names no time of its own.
    """
    code = error_code(error)
    extensions: dict[str, Any] = {"code": code}
    message = error.message
    cause = _cause(error)
    if isinstance(cause, BroadcastSystemError):
        extensions |= _facts(cause, retry_after_ms)
        if isinstance(cause, Unavailable):
            message = UNAVAILABLE_MESSAGE  # its own names addresses of ours
    elif cause is not None:
        message = INTERNAL_MESSAGE
    formatted: dict[str, Any] = {"message": message, "extensions": extensions}
    if error.locations:
        formatted["locations"] = [{"line": at.line, "column": at.column} for at in error.locations]
    if error.path:
        formatted["path"] = error.path
    return formatted


def to_error(error: BroadcastSystemError, *, retry_after_ms: int = 1_000) -> dict[str, Any]:
    """The same form for a request that never became an operation."""
    return {"message": str(error), "extensions": {"code": _code_of(error)} | _facts(error, retry_after_ms)}


def _code_of(error: BroadcastSystemError) -> ErrorCode:
    """The error's own code, or that of the nearest kind of error which clients are told of."""
    for kind in type(error).__mro__:
        code = getattr(kind, "code", None)
        if code in CODES:
            return cast(ErrorCode, code)
    return "internal"


def _cause(error: GraphQLError) -> BaseException | None:
    """The exception behind it, or None for what GraphQL itself found wrong."""
    cause: BaseException | None = error.original_error
    while isinstance(cause, GraphQLError):
        cause = cause.original_error
    return cause


def _facts(error: BroadcastSystemError, retry_after_ms: int) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if error.field is not None:
        facts["field"] = error.field
    if error.rule is not None:
        facts["rule"] = error.rule
    if error.retryable:
        own = error.retry_after_s
        facts["retryAfterMs"] = retry_after_ms if own is None else round(own * 1000)
    return facts
