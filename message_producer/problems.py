"""Errors as RFC 9457 problem details: one table from our errors to what an HTTP client reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from contract.errors import BroadcastSystemError, InvalidRequest

__all__ = ["PROBLEM_MEDIA_TYPE", "PreconditionRequired", "install_problem_handlers", "problem_of", "problem_response"]

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
_log = structlog.get_logger(__name__)
_MAX_ERRORS_LISTED: Final = 20

_TITLES: Final[Mapping[str, str]] = {
    "invalid_request": "The request breaks a rule",
    "unknown_stage": "The event has no such stage",
    "malformed_cursor": "The cursor is not usable",
    "precondition_required": "The revision this change is based on is missing",
    "unauthorized": "A valid operator token is needed",
    "forbidden": "The token's role does not allow this",
    "not_found": "There is no such thing",
    "method_not_allowed": "The resource does not know this method",
    "too_large": "The body is too large",
    "unsupported_media_type": "The body is of another kind",
    "conflict": "The request contradicts what is stored",
    "already_dispatched": "The broadcast went out already",
    "lease_lost": "Another producer has taken over",
    "revision_conflict": "The event has changed since",
    "overloaded": "Too much at once",
    "budget_spent": "The topic's broadcast budget is spent",
    "unavailable": "The service cannot do this now",
    "log_unavailable": "The log in flight is not reachable",
    "store_unavailable": "The schedule store is not writable",
    "internal": "Something went wrong inside",
}
_STATUS_CODES: Final[Mapping[int, str]] = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}
_NO_OBJECT: Final = frozenset({"model_attributes_type", "model_type", "dict_type"})
"""pydantic's words for a text or a list where an object belongs; a body of another content type is a text, too."""
_API_NAMES: Final = (
    (re.compile(r"\bevent_id\b"), "id"),
    (re.compile(r"\boffsets_ms\b"), "offsets"),
    (re.compile(r"\boffset_ms\b"), "offset"),
)
"""The domain's field names -> those of the JSON an operator wrote."""


class PreconditionRequired(InvalidRequest):
    """A change that must name the revision it is based on (RFC 6585)."""

    code = "precondition_required"
    http_status = 428


def problem_of(exc: BroadcastSystemError, instance: str, **extra: object) -> dict[str, object]:
    """The body of a problem response; `extra` are extension members."""
    field = None if exc.field is None else _api_name(exc.field)
    named = BroadcastSystemError(exc.message, field=field, rule=exc.rule)
    body: dict[str, object] = {
        "type": f"urn:stagecue:problem:{exc.code}",
        "title": _TITLES.get(exc.code, _TITLES["internal"]),
        "status": exc.http_status,
        "detail": str(named),
        "code": exc.code,
        "instance": instance,
    }
    if field is not None:
        body["field"] = field
    if exc.rule is not None:
        body["rule"] = exc.rule
    return body | extra


def problem_response(exc: BroadcastSystemError, instance: str, **extra: object) -> JSONResponse:
    headers: dict[str, str] = {}
    if exc.http_status == HTTPStatus.UNAUTHORIZED:
        # RFC 6750, section 3.1: no error code when no token was sent.
        headers["WWW-Authenticate"] = 'Bearer realm="stagecue"' + (
            "" if exc.message == "no token" else ', error="invalid_token"'
        )
    if exc.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(exc.retry_after_s)))
    return JSONResponse(
        problem_of(exc, instance, **extra), exc.http_status, headers=headers, media_type=PROBLEM_MEDIA_TYPE
    )


def install_problem_handlers(app: FastAPI) -> None:
    """Every error of `app` leaves as a problem."""

    async def on_ours(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, BroadcastSystemError)
        return problem_response(exc, request.url.path, **getattr(exc, "extra", {}))

    async def on_validation(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        return _validation_problem(exc.errors(), request.url.path)

    async def on_http(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        code = _STATUS_CODES.get(exc.status_code, "internal" if exc.status_code >= 500 else "invalid_request")
        body = {
            "type": f"urn:stagecue:problem:{code}",
            "title": _TITLES[code],
            "status": exc.status_code,
            "detail": str(exc.detail),
            "code": code,
            "instance": request.url.path,
        }
        return JSONResponse(body, exc.status_code, headers=exc.headers, media_type=PROBLEM_MEDIA_TYPE)

    async def on_anything(request: Request, exc: Exception) -> Response:
        _log.error("request_failed", method=request.method, path=request.url.path, error=type(exc).__name__)
        return problem_response(BroadcastSystemError("the request failed; the log says why"), request.url.path)

    app.add_exception_handler(BroadcastSystemError, on_ours)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_anything)


def _api_name(field: str) -> str:
    for pattern, name in _API_NAMES:
        field = pattern.sub(name, field)
    return field


def _validation_problem(errors: Sequence[Any], instance: str) -> JSONResponse:
    listed = [_validation_error(error) for error in errors[:_MAX_ERRORS_LISTED]]
    first = listed[0]
    extra: dict[str, object] = {"errors": [problem_of(item, instance) for item in listed]} if len(listed) > 1 else {}
    return problem_response(first, instance, **extra)


def _validation_error(error: Mapping[str, Any]) -> InvalidRequest:
    """One pydantic error with the path a person would write: `stages[2].offset`. Input values are not repeated."""
    kind, (where, *path) = str(error["type"]), error["loc"]
    field = _path(path)
    if kind == "json_invalid":
        return InvalidRequest(
            "not JSON", field="body", rule=f"one JSON object: {error.get('ctx', {}).get('error', '')}"
        )
    if where == "header":
        field = "-".join(part.capitalize() for part in field.split("-"))
    if kind == "extra_forbidden":
        return InvalidRequest("unknown field", field=field, rule="only documented fields are taken")
    if kind in _NO_OBJECT:
        rule = "a JSON object" if field else "one JSON object, with Content-Type: application/json"
        return InvalidRequest("no JSON object", field=field or str(where), rule=rule)
    if kind == "missing":
        return InvalidRequest("missing", field=field or str(where), rule="required")
    return InvalidRequest("not acceptable", field=field or str(where), rule=_rule(str(error["msg"])))


def _path(parts: Sequence[str | int]) -> str:
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def _rule(message: str) -> str:
    found = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return found[:1].lower() + found[1:200]
