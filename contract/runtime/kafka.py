"""What every Kafka client of ours shares: options, translation of errors, bounded logs, an end that comes in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Iterator
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    KafkaStorageError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    RequestTimedOutError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)

from contract.errors import InvalidRequest, LogUnavailable
from contract.runtime.kafka_settings import KafkaSettings
from contract.runtime.log_limit import KindLimit

__all__ = ["SERVERS", "client_options", "close_consumer", "close_producer", "log_trouble", "quiet_client_logs"]

SERVERS: Final = "KAFKA_BOOTSTRAP_SERVERS (--kafka)"
"""How an error names the setting that says where the brokers are."""
_CLIENT_LOGGER: Final = "aiokafka"
_CLOSE_WITHIN_S: Final = 2.0
_UNWIND_WITHIN_S: Final = 0.5
_RETRY_AFTER_S: Final = 1.0
_RETRY_BACKOFF_MS: Final = 100
_METADATA_MAX_AGE_MS: Final = 60_000
_DENIED: Final = (TopicAuthorizationFailedError, GroupAuthorizationFailedError, ClusterAuthorizationFailedError)
_NO_LOGIN: Final = (AuthenticationFailedError, SaslAuthenticationFailed)
_TOO_FEW: Final = (NotEnoughReplicasError, NotEnoughReplicasAfterAppendError)


def client_options(settings: KafkaSettings, role: str, *, request_timeout_ms: int) -> dict[str, Any]:
    """Keyword arguments of any aiokafka client. Raises InvalidRequest naming the file that cannot be used."""
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.servers),
        "client_id": f"{settings.client_id}-{role}",
        "request_timeout_ms": request_timeout_ms,
        "retry_backoff_ms": _RETRY_BACKOFF_MS,
        # A broker that moved without an error is found within a minute.
        "metadata_max_age_ms": _METADATA_MAX_AGE_MS,
        "security_protocol": settings.security_protocol,
    }
    if settings.uses_tls:
        options["ssl_context"] = _tls(settings)
    if settings.uses_sasl:
        assert settings.sasl_password is not None
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return options


@contextlib.contextmanager
def log_trouble(doing: str) -> Iterator[None]:
    """Translate what aiokafka raises inside: LogUnavailable where waiting can help, else InvalidRequest."""
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as exc:
        raise _translated(exc, doing) from exc


def _translated(exc: Exception, doing: str) -> LogUnavailable | InvalidRequest:
    if isinstance(exc, MessageSizeTooLargeError):
        return InvalidRequest(f"Kafka refused a record while {doing}", rule="it is larger than message.max.bytes")
    return LogUnavailable(f"Kafka: {doing}: {_said(exc)}", rule=_advice(exc), retry_after_s=_RETRY_AFTER_S)


def _said(exc: Exception) -> str:
    if isinstance(exc, TimeoutError | KafkaTimeoutError | RequestTimedOutError):
        return "no answer in time"
    return (str(exc) or type(exc).__name__)[:200]


def _advice(exc: Exception) -> str:
    """What to do about it, for whoever looks after the brokers."""
    if isinstance(exc, KafkaStorageError):
        return "the broker cannot write: is its disk full?"
    if isinstance(exc, _TOO_FEW):
        return "fewer brokers are in sync than KAFKA_MIN_INSYNC_REPLICAS asks for"
    if isinstance(exc, _NO_LOGIN):
        return "the brokers refuse KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
    if isinstance(exc, _DENIED):
        return "the brokers' access lists do not allow it to KAFKA_SASL_USERNAME"
    return f"it goes on once a broker of {SERVERS} answers; the broker's log says why it ended: a full disk ends one"


def _tls(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise InvalidRequest(
            f"{settings.ca_file} holds no certificates: {exc}", field="KAFKA_CA_FILE", rule="a PEM file we may read"
        ) from exc
    if settings.certificate_file is not None:
        try:
            # Without a password function OpenSSL would ask the terminal for one.
            context.load_cert_chain(settings.certificate_file, settings.key_file, password=lambda: b"")
        except (OSError, ssl.SSLError) as exc:
            raise InvalidRequest(
                f"{settings.certificate_file} cannot be used: {exc}",
                field="KAFKA_CERTIFICATE_FILE",
                rule="a PEM certificate and its unencrypted key, here or in KAFKA_KEY_FILE",
            ) from exc
    return context


def quiet_client_logs() -> None:
    """Bound aiokafka's loggers: an outage makes hundreds of lines, of which a few a kind get through. Idempotent."""
    logger = logging.getLogger(_CLIENT_LOGGER)
    if not any(isinstance(handler, _Bounded) for handler in logger.handlers):
        logger.addHandler(_Bounded())
        logger.propagate = False


class _Bounded(logging.Handler):
    """Hands on to the root logger what is not too much."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._limit = KindLimit(burst=3, window_s=30.0)

    def emit(self, record: logging.LogRecord) -> None:
        line = self._limit.admit(str(record.msg), time.monotonic())
        if line is None:
            return
        if line.hidden:
            record = logging.makeLogRecord({**record.__dict__, "msg": f"{record.msg} (and {line.hidden} more before)"})
        logging.getLogger().handle(record)


async def close_producer(producer: AIOKafkaProducer) -> None:
    """Deliver what waits and disconnect; whatever the brokers do, it ends within seconds."""
    if await _stopped(producer):
        return
    # aiokafka has no way to give up: its sender goes on trying, and its stop waits for the sender.
    await _unwind(producer._sender.sender_task)
    producer._message_accumulator.fail_all(KafkaConnectionError("given up at the end"))
    await _disconnect(producer.client)


async def close_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and disconnect; whatever the brokers do, it ends within seconds."""
    if await _stopped(consumer):
        return
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    for name in ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "_reset_committed_task"):
        await _unwind(getattr(coordinator, name, None))
    if fetcher is not None:
        for task in (fetcher._fetch_task, *fetcher._pending_tasks):
            await _unwind(task)
    await _disconnect(consumer._client)


async def _stopped(client: Any) -> bool:
    """Whether its own way to stop worked. It may hang in an outage, and end as cancelled though nobody cancelled it."""
    stopping = asyncio.create_task(client.stop(), name="kafka-client-stop")
    try:
        await asyncio.wait({stopping}, timeout=_CLOSE_WITHIN_S)
        return stopping.done() and not stopping.cancelled() and stopping.exception() is None
    finally:
        await _unwind(stopping)


async def _unwind(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task of aiokafka's until it is over: some wait for inner tasks when cancelled the first time."""
    for _ in range(5):
        if task is None or task.done():
            break
        task.cancel()
        await asyncio.wait({task}, timeout=_UNWIND_WITHIN_S)
    if task is not None and task.done() and not task.cancelled():
        task.exception()  # seen


async def _disconnect(client: Any) -> None:
    with contextlib.suppress(TimeoutError, KafkaError, OSError):
        async with asyncio.timeout(_UNWIND_WITHIN_S):
            await client.close()
