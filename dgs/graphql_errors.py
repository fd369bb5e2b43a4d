"""One error in GraphQL's form: what a client may know of it, and its code. Pure."""

from __future__ import annotations

from typing import Any, Final

from graphql import GraphQLError

from contract.errors import BroadcastSystemError, InvalidRequest

__all__ = ["INTERNAL_MESSAGE", "error_code", "format_error", "to_error"]

INTERNAL_MESSAGE: Final = "Something went wrong in this service; the details are in its log."


def error_code(error: GraphQLError) -> str:
    """`extensions.code`: ours for our errors, `invalid_request` for a bad document, else `internal`."""
    cause = _cause(error)
    if cause is None:
        return InvalidRequest.code
    return cause.code if isinstance(cause, BroadcastSystemError) else BroadcastSystemError.code


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
    return {"message": str(error), "extensions": {"code": error.code} | _facts(error, retry_after_ms)}


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
