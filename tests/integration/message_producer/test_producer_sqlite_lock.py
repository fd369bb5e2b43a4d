"""One producer per SQLite file: the lock file says so, and frees a successor from waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.clock import ManualClock
from contract.errors import StoreUnavailable
from contract.runtime.runner import Readiness
from message_producer.app import open_producer
from message_producer.lease_keeper import LeaseKeeper
from message_producer.settings import ProducerSettings


async def test_a_second_producer_on_the_same_file_is_refused_with_its_holder(tmp_path: Path) -> None:
    clock, settings = ManualClock(), ProducerSettings(data_dir=tmp_path, lock_wait_s=0.05)
    async with open_producer(settings, clock=clock, readiness=Readiness()):
        with pytest.raises(StoreUnavailable, match="already produces"):
            async with open_producer(settings, clock=clock, readiness=Readiness()):
                pass


async def test_a_restart_takes_the_lease_at_once(tmp_path: Path) -> None:
    """The file lock proves that the old holder is dead: nobody waits for its lease to end."""
    clock, settings = ManualClock(), ProducerSettings(data_dir=tmp_path)
    async with open_producer(settings, clock=clock, readiness=Readiness()) as producer:
        lease = producer.services[0]
        assert isinstance(lease, LeaseKeeper)
        assert await lease.compete()  # and is never released, as after kill -9
    async with open_producer(settings, clock=clock, readiness=Readiness()) as producer:
        lease = producer.services[0]
        assert isinstance(lease, LeaseKeeper)
        assert await lease.compete()
        assert lease.epoch == 2
