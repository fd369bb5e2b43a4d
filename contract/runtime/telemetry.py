"""Logs and metrics: structlog set up once per process, lines bounded per message kind, secrets never shown."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal, TextIO, cast

import structlog

from contract.runtime.log_limit import LogByteLimit, LogRateLimit

__all__ = ["UnfailingStream", "configure_logging", "redact_secrets"]

LogFormat = Literal["json", "console"]
LOG_BYTES_PER_S: Final = 64 * 1024
"""What a process logs at most, on average, whatever goes wrong how often: a disk must last for a night."""
_BOUNDED_ELSEWHERE: Final = ("span",)
"""Followed requests: as many a second as settings say."""
_SECRET_WORDS: Final = ("token", "secret", "authorization", "password", "access_token")


class UnfailingStream:
    """A text stream that drops what cannot be written: a log on a full disk must not take the service with it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.dropped = 0

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self.dropped += 1
            return 0

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self.dropped += 1


def redact_secrets(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank values whose key names a secret; the last line of defence, not a licence to log them."""
    for key in event:
        if any(word in key.lower() for word in _SECRET_WORDS):
            event[key] = "(hidden)"
    return event


def configure_logging(*, level: str = "INFO", form: LogFormat | None = None, service: str | None = None) -> None:
    """One line per event on standard error; `form` defaults to console on a terminal, else JSON."""
    form = form or ("console" if sys.stderr.isatty() else "json")
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if form == "console" else structlog.processors.JSONRenderer()
    )
    note = _left_out if form == "console" else None
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            LogRateLimit(bounded_elsewhere=_BOUNDED_ELSEWHERE),
            redact_secrets,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
            cast("structlog.typing.Processor", LogByteLimit(bytes_per_s=LOG_BYTES_PER_S, form=note)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", UnfailingStream(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    if service:
        structlog.contextvars.bind_contextvars(service=service)
    # Libraries log through the standard library: warnings and worse, through the same bounds.
    handler = _StdlibToStructlog()
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _left_out(lines: int, nbytes: int) -> str:
    return f"({lines} lines of {nbytes} bytes left out: more than is logged in a second)"


class _StdlibToStructlog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        # The template, not the formatted text, is the event name, so that the rate limit can recognise repeats; of an
        # event loop's many lines the first: what follows shows addresses of objects.
        kind = str(record.msg).partition("\n")[0][:200]
        more: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        log.log(max(record.levelno, logging.DEBUG), kind, detail=record.getMessage()[:500], **more)
