"""`/metrics` of the operator API shows every registry it was given, to whoever scrapes."""

from __future__ import annotations

import httpx
from prometheus_client import CollectorRegistry, Counter

from contract.clock import ManualClock
from contract.runtime.runner import Readiness
from contract.tokens import new_key_ring
from message_producer.api import create_app
from tests.support.fake_operations import FakeOperations


async def test_metrics_of_all_registries_without_a_token():
    """The router has no listener of its own when embedded: its counts are shown here."""
    one, two = CollectorRegistry(), CollectorRegistry()
    Counter("stagecue_one", "One.", registry=one).inc(3)
    Counter("stagecue_two", "Two.", registry=two)
    app = create_app(
        FakeOperations(),
        operator_ring=new_key_ring("stagecue.operator"),
        readiness=Readiness(),
        clock=ManualClock(),
        registries=(one, two),
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://operator") as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert "stagecue_one_total 3.0" in answer.text
    assert "stagecue_two_total 0.0" in answer.text
