"""Before the first record: are these brokers, do they let us in, and do our Kafka topics exist as declared?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import Sequence
from typing import Any, Final

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    InvalidReplicationFactorError,
    KafkaError,
    NoError,
    SaslAuthenticationFailed,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from contract.errors import InvalidRequest, LogUnavailable
from contract.kafka_topics import KafkaTopic, differences
from contract.runtime.kafka import SERVERS, client_options, log_trouble, quiet_client_logs
from contract.runtime.kafka_probe import NotKafka, is_kafka
from contract.runtime.kafka_settings import KafkaSettings

__all__ = ["StuckClient", "ensure_topics"]

_RETRY_AFTER_S: Final = 1.0
_ADMIN_WITHIN_S: Final = 5.0
_SECOND_LOOK_S: Final = 0.3
_log = structlog.get_logger(__name__)


async def ensure_topics(settings: KafkaSettings) -> None:
    """Create what is missing of our Kafka topics; safe to repeat, and for several processes at once.

    Ends within ten seconds. Raises LogUnavailable where waiting can help, and InvalidRequest naming the setting: the
    address is no Kafka, the brokers do not let us in, a topic exists and differs from what is declared.
    """
    assert settings.servers, f"{SERVERS} is not set"
    quiet_client_logs()
    await _some_broker(settings)
    options = client_options(settings, "admin", request_timeout_ms=round(_ADMIN_WITHIN_S * 1000))
    admin = AIOKafkaAdminClient(**options)
    with log_trouble("looking at its topics"):
        try:
            async with asyncio.timeout(_ADMIN_WITHIN_S):
                await admin.start()
                missing = await _missing(admin, settings.topics)
                if missing:
                    await _create(admin, missing)
        finally:
            await _closed(admin)


async def _missing(admin: Any, topics: Sequence[KafkaTopic]) -> list[KafkaTopic]:
    """Those that do not exist. Raises InvalidRequest about those that do and differ."""
    described = await admin.describe_topics([topic.name for topic in topics])
    partitions = {}
    for found in described:
        error = for_code(found["error_code"])
        if error is UnknownTopicOrPartitionError:
            continue
        if error is not NoError:
            raise error(found["topic"])
        partitions[found["topic"]] = len(found["partitions"])
    configs = await _configs(admin, list(partitions))
    wrong = [
        difference
        for topic in topics
        if topic.name in partitions
        for difference in differences(topic, partitions[topic.name], configs.get(topic.name, {}))
    ]
    if wrong:
        raise InvalidRequest(
            "; ".join(wrong),
            field="Kafka topics",
            rule="change the topic (kafka-configs.sh) or the setting; partitions can only be set right by a new topic",
        )
    return [topic for topic in topics if topic.name not in partitions]


async def _configs(admin: Any, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Configuration of existing topics; of those we may not look at, none."""
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs = {}
    for response in await admin.describe_configs(resources):
        for code, message, _, name, entries in response.resources:
            if for_code(code) is NoError:
                configs[name] = {entry[0]: entry[1] for entry in entries}
            else:
                _log.warning("kafka_topic_not_checked", topic=name, why=message)
    return configs


async def _create(admin: Any, topics: Sequence[KafkaTopic]) -> None:
    requests = [
        NewTopic(topic.name, topic.partitions, topic.replication_factor, topic_configs=dict(topic.config))
        for topic in topics
    ]
    response = await admin.create_topics(requests)
    for name, code, message in response.topic_errors:
        error = for_code(code)
        if error is NoError:
            _log.info("kafka_topic_created", topic=name)
        elif error is InvalidReplicationFactorError:
            raise LogUnavailable(
                f"Kafka topic {name} cannot be created: {message}",
                field="KAFKA_REPLICATION_FACTOR",
                rule="start as many brokers, or ask for fewer copies",
                retry_after_s=_RETRY_AFTER_S,
            )
        elif error is not TopicAlreadyExistsError:
            raise error(f"{name}: {message}")


async def _closed(admin: Any) -> None:
    with contextlib.suppress(TimeoutError, KafkaError, OSError):
        async with asyncio.timeout(1.0):
            await admin.close()


class StuckClient:
    """Whether a client that gets nowhere is itself the reason: brokers have answered others for `renew_after_s`.

    While nobody answers, a client is left alone: it goes on by itself, sooner than a new one, whose group would first
    wait for the ghost of the old one.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._alone_since_s: float | None = None

    def worked(self) -> None:
        self._alone_since_s = None

    async def failed(self) -> bool:
        """It failed again: look whether brokers answer, and say whether to replace it. Takes seconds at most."""
        begun_s = time.monotonic()
        try:
            await _some_broker(self._settings)
        except (LogUnavailable, InvalidRequest):
            self._alone_since_s = None
            return False
        if self._alone_since_s is None:
            self._alone_since_s = begun_s
        return begun_s - self._alone_since_s >= self._settings.renew_after_s


# -- is it Kafka, and does it let us in -------------------------------------------------------------------------------


async def _some_broker(settings: KafkaSettings) -> None:
    """Return if one of the brokers named takes us. Raises what the most telling of the others said."""
    looks = await asyncio.gather(*(_look(settings, server) for server in settings.servers))
    troubles = [trouble for trouble in looks if trouble is not None]
    if len(troubles) == len(looks):
        raise next((one for one in troubles if isinstance(one, InvalidRequest)), troubles[0])


async def _look(settings: KafkaSettings, server: str) -> InvalidRequest | LogUnavailable | None:
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
    except (OSError, TimeoutError) as exc:
        return _nobody(server, exc)
    try:
        return await _knock(settings, server, host, int(port))
    except (OSError, KafkaError, TimeoutError):
        await asyncio.sleep(_SECOND_LOOK_S)
    try:
        # Twice the same is no accident; a broker that was just stopping is gone by now.
        return await _knock(settings, server, host, int(port))
    except (OSError, KafkaError, TimeoutError) as exc:
        return await _why_not(settings, server, host, int(port), exc)


async def _knock(settings: KafkaSettings, server: str, host: str, port: int) -> InvalidRequest | LogUnavailable | None:
    """Connect as our clients do and ask for the brokers. Raises what says nothing by itself."""
    within_ms = round(settings.connect_timeout_s * 1000 / 2)
    options = client_options(settings, "probe", request_timeout_ms=within_ms)
    for unknown in ("bootstrap_servers", "retry_backoff_ms", "metadata_max_age_ms"):
        del options[unknown]
    try:
        connection = await create_conn(host, port, **options)
    except IllegalSaslStateError:
        return InvalidRequest(
            f"the Kafka broker {server} asks for no login",
            field="KAFKA_SECURITY_PROTOCOL",
            rule=f"PLAINTEXT or SSL for that listener, or name its SASL listener in {SERVERS}",
        )
    except UnsupportedSaslMechanismError:
        return InvalidRequest(
            f"the Kafka broker {server} does not take {settings.sasl_mechanism}",
            field="KAFKA_SASL_MECHANISM",
            rule="one of the broker's sasl.enabled.mechanisms",
        )
    except (SaslAuthenticationFailed, AuthenticationFailedError):
        return InvalidRequest(
            f"the Kafka broker {server} refuses user {settings.sasl_username!r}",
            field="KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD",
            rule="a user the broker knows, with its password",
        )
    except ssl.SSLCertVerificationError as exc:
        return InvalidRequest(
            f"the certificate of the Kafka broker {server} does not hold: {exc.verify_message}",
            field="KAFKA_CA_FILE",
            rule="the certificates that sign the brokers', and brokers named as their certificates do",
        )
    try:
        metadata = await connection.send(MetadataRequest([]))
    finally:
        connection.close()
    return await _reachable(settings, server, [(host, port) for _, host, port, *_ in metadata.brokers])


async def _reachable(settings: KafkaSettings, server: str, brokers: Sequence[tuple[str, int]]) -> LogUnavailable | None:
    """Whether one of the addresses that brokers tell their clients leads to them."""
    for host, port in brokers:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(settings.connect_timeout_s / 2):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return None
    told = ", ".join(f"{host}:{port}" for host, port in brokers) or "none"
    return LogUnavailable(
        f"the Kafka broker {server} answers, but nobody does at the addresses it tells its clients: {told}",
        field=SERVERS,
        rule="set advertised.listeners of the brokers to addresses that lead there from here",
        retry_after_s=_RETRY_AFTER_S,
    )


async def _why_not(
    settings: KafkaSettings, server: str, host: str, port: int, exc: Exception
) -> InvalidRequest | LogUnavailable:
    """Something accepts connections and then does not talk to us: what is it?"""
    try:
        await is_kafka(host, port, timeout_s=settings.connect_timeout_s / 2)
    except (OSError, TimeoutError) as gone:
        return _nobody(server, gone)
    except NotKafka as other:
        if settings.uses_tls and isinstance(exc, ssl.SSLError):
            return InvalidRequest(
                f"no TLS with the Kafka broker {server}: {exc.reason or exc}",
                field="KAFKA_SECURITY_PROTOCOL",
                rule=f"the protocol of the listener that {SERVERS} names",
            )
        kind = InvalidRequest if other.answered else LogUnavailable
        return kind(
            f"the Kafka broker should be at {server}, but what listens there {other}",
            field=SERVERS,
            rule="host:port of a broker's listener; if it is one, does it want TLS (KAFKA_SECURITY_PROTOCOL)?",
            retry_after_s=None if other.answered else _RETRY_AFTER_S,
        )
    wanted = "speaks in the clear" if settings.uses_tls else "closes the connection: it wants a login"
    return InvalidRequest(
        f"the listener of the Kafka broker {server} {wanted}",
        field="KAFKA_SECURITY_PROTOCOL",
        rule=f"{settings.security_protocol} is not the protocol of the listener that {SERVERS} names",
    )


def _nobody(server: str, exc: Exception) -> LogUnavailable:
    return LogUnavailable(
        f"no Kafka broker answers at {server}: {_why(exc)}",
        field=SERVERS,
        rule="start the broker (its log says what ended it: a full disk, say), or name the host:port of one that runs",
        retry_after_s=_RETRY_AFTER_S,
    )


def _why(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    number = getattr(exc, "errno", None)
    return os.strerror(number) if number is not None and number > 0 else str(getattr(exc, "strerror", None) or exc)
