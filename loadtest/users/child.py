"""The processes of a run: `python -m loadtest.users.child DIRECTORY [WORKER PORT]`. Started by `LocustRun` alone.

Without a worker's number: the master, or with `workers=0` the only process. A master starts its workers, waits for
them, sets the common beginning, adds up what they report, and leaves the outcome as a file.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import gevent.os
import msgspec
from locust import User, runners
from locust.env import Environment

from loadtest.open_files import raise_file_limit
from loadtest.users.devices import user_class
from loadtest.users.exchange import PLAN_FILE
from loadtest.users.leading import Lead, LocalLead, MasterLead
from loadtest.users.plan import UsersPlan
from loadtest.users.serving import serve
from loadtest.users.sharing import EvenDispatcher
from loadtest.users.world import World

_REPORT_EVERY_S = 1.0
_NEVER_MISSED = 1_000_000


def main(arguments: list[str]) -> int:
    directory = Path(arguments[0])
    plan = msgspec.json.decode((directory / PLAN_FILE).read_bytes(), type=UsersPlan)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    raise_file_limit()
    runners.WORKER_REPORT_INTERVAL = _REPORT_EVERY_S
    # A worker that was silent for a while is late and says so by its lag; locust would take it for dead, and with the
    # last one stop the test. That a worker died is seen by its process.
    runners.HEARTBEAT_LIVENESS = _NEVER_MISSED
    # A master has no users, and yet wants their classes.
    world = World(plan)
    classes: list[type[User]] = [user_class(world, crowd) for crowd in plan.crowds]
    environment = Environment(user_classes=classes, dispatcher_class=EvenDispatcher, stop_timeout=0)
    if len(arguments) > 1:
        gevent.spawn(_end_with_parent)
        return serve(environment, world, number=int(arguments[1]), port=int(arguments[2]))
    lead: Lead = MasterLead(environment, plan, directory) if plan.workers else LocalLead(environment, plan, world)
    return lead.run(directory)


def _end_with_parent() -> None:
    """The end of the input means that the master is gone."""
    gevent.os.make_nonblocking(0)
    while gevent.os.nb_read(0, 64):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
