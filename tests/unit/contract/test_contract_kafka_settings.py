"""Settings of Kafka, the topics they declare, and what of an existing topic would break a rule."""

from __future__ import annotations

import logging

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaStorageError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotEnoughReplicasError,
    TopicAuthorizationFailedError,
)
from pydantic import ValidationError

from contract.errors import InvalidRequest, LogUnavailable
from contract.kafka_topics import differences
from contract.names import KAFKA_BROADCASTS, KAFKA_DEAD_LETTERS, KAFKA_SCHEDULE
from contract.runtime.kafka import client_options, log_trouble, quiet_client_logs
from contract.runtime.kafka_settings import KafkaSettings
from contract.runtime.settings import settings_table

LOGIN = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "u", "sasl_password": "hush"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in settings_table(KafkaSettings):
        monkeypatch.delenv(row[0], raising=False)


def test_without_brokers_there_is_no_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not set, or set to nothing, as compose files do."""
    assert KafkaSettings().servers == ()
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", " ")
    assert KafkaSettings().bootstrap_servers is None


def test_brokers_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several by commas, spaces around them, IPv6 in brackets; what else says KAFKA_ is not ours to refuse."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka-1:9092, [::1]:9093")
    monkeypatch.setenv("KAFKA_HEAP_OPTS", "-Xmx1g")
    assert KafkaSettings().servers == ("kafka-1:9092", "[::1]:9093")


@pytest.mark.parametrize("servers", ["kafka", "kafka:", ":9092", "kafka:none", "kafka:0", "kafka:70000", "a:1,,b:2"])
def test_an_address_that_is_none_is_refused(servers: str) -> None:
    """With the form it should have."""
    with pytest.raises(ValidationError, match="host:port"):
        KafkaSettings(bootstrap_servers=servers)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"security_protocol": "SASL_SSL"}, "needs sasl_username"),
        ({"min_insync_replicas": 2}, "must not exceed replication_factor"),
        ({"session_timeout_ms": 1_000}, "heartbeat_interval_ms"),
        ({"renew_after_s": 1}, "must exceed send_timeout_s"),
        ({"key_file": "k.pem"}, "needs certificate_file"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, object], said: str) -> None:
    """Before anything is started."""
    with pytest.raises(ValidationError, match=said):
        KafkaSettings(**given)


def test_the_password_is_never_shown() -> None:
    """Neither in the settings' own words nor in an error about them."""
    settings = KafkaSettings(**LOGIN)
    assert "hush" not in repr(settings)
    assert "hush" not in str(settings_table(KafkaSettings))
    with pytest.raises(ValidationError) as told:
        KafkaSettings(**LOGIN, partitions=0)
    assert "hush" not in str(told.value)


def test_every_setting_is_described() -> None:
    """In docs and --print-config."""
    assert all(meaning.endswith(".") for *_, meaning in settings_table(KafkaSettings))


def test_clients_are_told_how_to_log_in() -> None:
    """And only what they need."""
    plain = client_options(KafkaSettings(bootstrap_servers="a:1,b:2"), "router", request_timeout_ms=7)
    assert plain["bootstrap_servers"] == ["a:1", "b:2"]
    assert plain["client_id"] == "stagecue-router"
    assert not [name for name in plain if name.startswith(("sasl", "ssl"))]
    login = client_options(KafkaSettings(bootstrap_servers="a:1", **LOGIN), "router", request_timeout_ms=7)
    assert (login["sasl_plain_username"], login["sasl_plain_password"]) == ("u", "hush")
    assert login["sasl_mechanism"] == "SCRAM-SHA-512"


def test_topics_are_declared_for_their_purpose() -> None:
    """Broadcasts are kept for a time, schedules by topic; no record is refused for its timestamp."""
    topics = {topic.name: topic for topic in KafkaSettings(partitions=5, broadcast_retention_s=90_000).topics}
    assert set(topics) == {KAFKA_BROADCASTS, KAFKA_SCHEDULE, KAFKA_DEAD_LETTERS}
    assert topics[KAFKA_BROADCASTS].partitions == topics[KAFKA_SCHEDULE].partitions == 5
    assert topics[KAFKA_BROADCASTS].config["retention.ms"] == "90000000"
    assert topics[KAFKA_SCHEDULE].config["cleanup.policy"] == "compact"
    assert "retention.ms" not in topics[KAFKA_SCHEDULE].config
    for topic in topics.values():
        assert int(topic.config["message.timestamp.after.max.ms"]) > 10**15
        assert topic.config["unclean.leader.election.enable"] == "false"


def test_what_of_an_existing_topic_matters() -> None:
    """Partitions, cleanup, retention and timestamps; longer is fine, unlimited is, and what we may not see is."""
    broadcasts, schedule, _ = KafkaSettings().topics
    good = dict(broadcasts.config)
    assert differences(broadcasts, 12, good) == ()
    assert differences(broadcasts, 12, {}) == ()
    assert differences(broadcasts, 12, {**good, "retention.ms": "99999999999"}) == ()
    assert differences(broadcasts, 12, {**good, "retention.ms": "-1"}) == ()
    [partitions] = differences(broadcasts, 11, good)
    assert "has 11 partitions, 12 are declared (KAFKA_PARTITIONS)" in partitions
    [retention] = differences(broadcasts, 12, {**good, "retention.ms": "1"})
    assert "KAFKA_BROADCAST_RETENTION_S" in retention
    [stamped] = differences(broadcasts, 12, {**good, "message.timestamp.type": "LogAppendTime"})
    assert "message.timestamp.type" in stamped
    [cleanup] = differences(schedule, 12, {**schedule.config, "cleanup.policy": "delete"})
    assert "must be compact" in cleanup


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (KafkaConnectionError("gone"), "it goes on once a broker"),
        (KafkaTimeoutError(), "no answer in time"),
        (TimeoutError(), "no answer in time"),
        (OSError("unreachable"), "unreachable"),
        (KafkaStorageError(), "is its disk full?"),
        (NotEnoughReplicasError(), "KAFKA_MIN_INSYNC_REPLICAS"),
        (TopicAuthorizationFailedError("stage.broadcasts"), "access lists"),
    ],
)
def test_trouble_with_the_log_is_said_in_our_words(raised: Exception, said: str) -> None:
    """As what callers wait out, with what to do about it."""
    with pytest.raises(LogUnavailable) as told, log_trouble("sending"):
        raise raised
    assert said in str(told.value)
    assert told.value.retry_after_s is not None
    assert told.value.__cause__ is raised


def test_a_record_too_large_is_no_matter_of_waiting() -> None:
    """Nor is anything else hidden."""
    with pytest.raises(InvalidRequest), log_trouble("sending"):
        raise MessageSizeTooLargeError
    with pytest.raises(ZeroDivisionError), log_trouble("sending"):
        _ = 1 // 0


def test_the_clients_own_logs_are_bounded() -> None:
    """A thousand lines of a kind make a few, whichever of its modules writes them; debug lines make none."""
    lines: list[logging.LogRecord] = []

    class Everything(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record)

    everything = Everything()
    logging.getLogger().addHandler(everything)
    try:
        quiet_client_logs()
        quiet_client_logs()
        logger = logging.getLogger("aiokafka.consumer.fetcher")
        for number in range(1000):
            logger.error("Failed to fetch, by test: %s", number)
            logger.debug("Fetching, by test: %s", number)
    finally:
        logging.getLogger().removeHandler(everything)
    assert 1 <= len(lines) <= 3
    assert all(record.levelno == logging.ERROR for record in lines)
