"""The runner's order of start and stop, readiness, log bounds and failpoints."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import pytest
import structlog

from contract.runtime import failpoints
from contract.runtime.runner import Readiness, StopIncomplete, run_services
from contract.runtime.telemetry import UnfailingStream, configure_logging, redact_secrets


class Recorder:
    """A service that writes down what happens to it."""

    def __init__(self, name, told, *, fails=False, hangs=False):
        self.name, self._told, self._fails, self._hangs = name, told, fails, hangs

    async def run(self, ready, stop):
        self._told.append(f"{self.name} up")
        if self._fails:
            raise ValueError(self.name)
        ready.set()
        await stop.wait()
        if self._hangs:
            await asyncio.sleep(3600)
        self._told.append(f"{self.name} down")


async def test_services_start_in_order_and_stop_in_reverse():
    told, stop = [], asyncio.Event()

    async def stop_at_once():
        told.append("ready")
        stop.set()

    await run_services([Recorder("a", told), Recorder("b", told)], stop=stop, on_ready=stop_at_once)
    assert told == ["a up", "b up", "ready", "b down", "a down"]


async def test_the_first_failure_stops_the_others_and_is_raised():
    told = []
    services = [Recorder("a", told), Recorder("b", told, fails=True), Recorder("c", told)]
    with pytest.raises(ValueError, match="b"):
        await run_services(services, stop=asyncio.Event())
    assert told == ["a up", "b up", "a down"]


async def test_a_service_that_does_not_stop_is_cut_off():
    told, stop = [], asyncio.Event()

    async def stop_at_once():
        stop.set()

    services = [Recorder("a", told), Recorder("b", told, hangs=True)]
    with pytest.raises(StopIncomplete, match="drained: b"):
        await run_services(services, stop=stop, on_ready=stop_at_once, stop_deadline_s=0.05)
    assert told == ["a up", "b up", "a down"]


def test_readiness_says_what_is_missing_and_recovers():
    readiness = Readiness()
    assert not readiness.ready, "nothing is known yet"
    readiness.hold("store")
    assert readiness.ready
    readiness.fail("store", "disk full")
    assert readiness.failing() == {"store": "disk full"}
    readiness.hold("store")
    assert readiness.ready
    readiness.stopping()
    assert not readiness.ready
    assert "lifecycle" in readiness.failing()


def test_a_log_on_a_full_disk_raises_nothing():
    """What cannot be written is dropped and counted; the service goes on."""

    class Full(io.StringIO):
        def write(self, *text):
            raise OSError(28, "No space left on device")

        flush = write

    stream = UnfailingStream(Full())
    structlog.WriteLogger(stream).warning("not ready")
    assert stream.dropped > 0
    kept = io.StringIO()
    UnfailingStream(kept).write("line\n")
    assert kept.getvalue() == "line\n"


async def test_what_an_event_loop_reports_is_one_kind_and_says_what_was_raised(capsys):
    """Its lines show addresses of objects, each another one: a thousand failing connections make twenty lines."""
    configure_logging(form="json")
    try:
        for _ in range(1000):
            failed = ZeroDivisionError("a connection's own mistake")
            asyncio.get_running_loop().call_exception_handler(
                {"message": "protocol failed", "exception": failed, "transport": object()}
            )
    finally:
        structlog.reset_defaults()
        logging.basicConfig(handlers=[], force=True)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 20
    assert {line["event"] for line in lines} == {"protocol failed"}
    assert all("ZeroDivisionError: a connection's own mistake" in line["exception"] for line in lines)


def test_secrets_are_blanked():
    shown = redact_secrets(None, "info", {"event": "x", "access_token": "abc", "Authorization": "abc", "node": "n"})
    assert shown == {"event": "x", "access_token": "(hidden)", "Authorization": "(hidden)", "node": "n"}


def test_failpoints_refuse_unknown_names_and_are_harmless_disarmed():
    with pytest.raises(ValueError, match="no failpoint"):
        failpoints.arm("producer.coffee")
    for name in failpoints.FAILPOINTS:
        failpoints.failpoint(name)
