"""A worker: carries its share of the users, reports every second, tells the rest when asked to finish. gevent.

Every message carries what was counted since the one before, so nothing is told twice and nothing is lost in between.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import gevent
import msgspec
from locust.env import Environment

from loadtest.users.figures import BookReport
from loadtest.users.generator import GeneratorMeter
from loadtest.users.world import World

__all__ = ["BEGIN", "FINAL", "FINISH", "REPORT", "Drain", "Report", "note_levels_for_ever", "report_of", "serve"]

BEGIN: Final = "stagecue_begin"
FINISH: Final = "stagecue_finish"
FINAL: Final = "stagecue_final"
REPORT: Final = "stagecue_report"
"""Key of the report in what locust sends to the master."""
_POLL_S: Final = 0.02
_LEVEL_BEFORE_END_S: Final = 0.002


class Report(msgspec.Struct, frozen=True):
    """What a worker counted since its last report, and how it stands."""

    book: BookReport
    users: Mapping[str, int]
    open: int


def report_of(encoded: bytes) -> Report:
    return msgspec.json.decode(encoded, type=Report)


class Drain:
    """Ends the users of a process: first no new asks, then a bounded wait for those under way, then all users."""

    def __init__(self, environment: Environment, world: World) -> None:
        self._environment = environment
        self._world = world

    def stop_asking(self) -> None:
        """The run is over: what is open is counted, and nothing is asked any more."""
        world = self._world
        world.note_levels(world.bin_of(world.now_s()))
        world.stop()
        for crowd, level in world.open.items():
            world.book.count(crowd, "open_at_end", level)

    def finish(self) -> None:
        """Wait for asks under way, then end everybody."""
        world = self._world
        deadline_s = world.now_s() + world.plan.drain_s
        while world.asks_under_way and world.now_s() < deadline_s:
            gevent.sleep(_POLL_S)
        runner = self._environment.runner
        assert runner is not None
        runner.stop()


def note_levels_for_ever(world: World) -> None:
    """As each bin ends, who is there and what is open."""
    number = 0
    while True:
        world.sleep_until((number + 1) * world.plan.bin_s - _LEVEL_BEFORE_END_S)
        if world.stopping:
            return
        # Woken late, it fills the bins it slept through: a curve has no holes.
        reached = max(number, world.bin_of(world.now_s() + _LEVEL_BEFORE_END_S) - 1)
        for each in range(number, reached + 1):
            world.note_levels(each)
        number = reached + 1


def serve(environment: Environment, world: World, *, number: int, port: int) -> int:
    """Be worker `number` of the master at `port`, until it ends this process."""
    meter = GeneratorMeter()
    runner = environment.create_worker_runner("127.0.0.1", port)

    def begin(environment: Environment, msg: Any, **_: object) -> None:
        told = msg.data
        world.begin(told["at_s"], told["at_ms"], share=told["share"], shares=told["shares"])
        meter.start()
        gevent.spawn(note_levels_for_ever, world)

    def finish(environment: Environment, msg: Any, **_: object) -> None:
        drain = Drain(environment, world)
        drain.stop_asking()
        generator = meter.figures(number)
        drain.finish()
        final = {"book": msgspec.json.encode(world.take().report()), "generator": msgspec.json.encode(generator)}
        runner.send_message(FINAL, final)

    def report(client_id: str, data: dict[str, Any], **_: object) -> None:
        found = Report(world.take().report(), dict(world.present), sum(world.open.values()))
        data[REPORT] = msgspec.json.encode(found)

    environment.events.report_to_master.add_listener(report)  # type: ignore[no-untyped-call]
    runner.register_message(BEGIN, begin)
    runner.register_message(FINISH, finish, concurrent=True)
    runner.greenlet.join()
    os._exit(0)
