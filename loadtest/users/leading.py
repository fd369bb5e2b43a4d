"""The process that leads a run: makes users exist, sets the beginning, adds up, ends it, leaves the outcome. gevent."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from pathlib import Path
from typing import Any, Final

import gevent
import gevent.os
import msgspec
from locust.env import Environment

from loadtest.users.exchange import (
    FINAL_WITHIN_S,
    OUTCOME_FILE,
    USERS_ENDED_PER_S,
    WORKER_READY_S,
    Begun,
    Line,
    Outcome,
    Over,
    Standing,
    encode_line,
)
from loadtest.users.figures import Book, BookReport
from loadtest.users.generator import GeneratorMeter
from loadtest.users.plan import UsersPlan
from loadtest.users.result import Generator, UsersSnapshot
from loadtest.users.serving import BEGIN, FINAL, FINISH, REPORT, Drain, Report, note_levels_for_ever, report_of
from loadtest.users.sharing import EvenDispatcher
from loadtest.users.world import World, wall_ms

__all__ = ["Lead", "LocalLead", "MasterLead"]

_LOG: Final = logging.getLogger("loadtest.users")
_BEGIN_IN_S: Final = 0.5
"""From the decision to the beginning: by then every worker has heard of it."""
_SNAPSHOT_EVERY_S: Final = 0.5
_POLL_S: Final = 0.02
_RATE_OVER_S: Final = 3.0
_READY_WITHIN_S: Final = 25.0
_USERS_MADE_PER_S: Final = 500


class Lead(ABC):
    """One run, from its processes' start to the outcome."""

    def __init__(self, plan: UsersPlan) -> None:
        self.plan = plan
        self.book = Book()
        """All that was reported."""
        self.generators: list[Generator] = []
        self.invalid_because: list[str] = []
        self._asked_to_finish = False
        self._began_s = 0.0
        self._rates: deque[tuple[float, int]] = deque()

    def run(self, directory: Path) -> int:
        """Returns the exit code."""
        gevent.spawn(self._listen_to_parent)
        self.prepare()
        self._began_s = time.monotonic() + _BEGIN_IN_S
        began_at_ms = wall_ms() + int(_BEGIN_IN_S * 1000)
        self.begin(self._began_s, began_at_ms)
        gevent.sleep(self._began_s - time.monotonic())
        _say(Begun(began_at_ms))
        self._watch()
        lasted_s = time.monotonic() - self._began_s
        self.finish()
        if self.plan.duration_s is not None:
            lasted_s = min(lasted_s, self.plan.duration_s)
        outcome = Outcome(
            began_at_ms=began_at_ms,
            lasted_s=lasted_s,
            partial=self.plan.duration_s is not None and lasted_s < self.plan.duration_s,
            book=self.book.report(),
            generators=sorted(self.generators, key=lambda each: each.worker),
            invalid_because=self.invalid_because,
        )
        written = directory / f"{OUTCOME_FILE}.part"
        written.write_bytes(msgspec.json.encode(outcome))
        written.replace(directory / OUTCOME_FILE)
        _say(Over())
        self.end()
        return 0

    @abstractmethod
    def prepare(self) -> None:
        """Make all users exist, waiting."""

    @abstractmethod
    def begin(self, at_s: float, at_ms: int) -> None:
        """Tell them when."""

    @abstractmethod
    def collect(self) -> None:
        """Bring the book up to date; called every now and then."""

    @abstractmethod
    def now(self) -> tuple[dict[str, int], int]:
        """(crowd -> users there, connections open)."""

    @abstractmethod
    def finish(self) -> None:
        """End the users, and bring in what is left."""

    def end(self) -> None:
        """End other processes; there are none here."""
        return

    # the run
    def _watch(self) -> None:
        duration_s = self.plan.duration_s
        snapshot_at_s = 0.0
        while not self._asked_to_finish and not self.invalid_because:
            now_s = time.monotonic() - self._began_s
            if duration_s is not None and now_s >= duration_s:
                return
            if now_s >= snapshot_at_s:
                snapshot_at_s = now_s + _SNAPSHOT_EVERY_S
                self.collect()
                _say(Standing(self._snapshot(now_s)))
            rest_s = _POLL_S if duration_s is None else min(_POLL_S, max(0.0, duration_s - now_s))
            gevent.sleep(rest_s)

    def _snapshot(self, now_s: float) -> UsersSnapshot:
        users, opened = self.now()
        sent = self.book.total("sent")
        self._rates.append((now_s, sent))
        while len(self._rates) > 2 and now_s - self._rates[0][0] > _RATE_OVER_S:
            self._rates.popleft()
        first_s, first_sent = self._rates[0]
        return UsersSnapshot(
            at_s=round(now_s, 3),
            users=users,
            sent=sent,
            sent_per_s=round((sent - first_sent) / max(_SNAPSHOT_EVERY_S, now_s - first_s), 1),
            failed=self.book.total("failed"),
            refused=self.book.total("refused"),
            handshakes=self.book.total("handshakes"),
            open=opened,
            delivered=self.book.total("delivered"),
        )

    def _listen_to_parent(self) -> None:
        gevent.os.make_nonblocking(0)
        while gevent.os.nb_read(0, 64):
            self._asked_to_finish = True
        # The parent is gone, or has left us: nobody will read the outcome.
        self.end()
        os._exit(1)


class LocalLead(Lead):
    """One process: its own worker."""

    def __init__(self, environment: Environment, plan: UsersPlan, world: World) -> None:
        super().__init__(plan)
        self._environment = environment
        self._world = world
        self._meter = GeneratorMeter()

    def prepare(self) -> None:
        runner = self._environment.create_local_runner()
        runner.start(self.plan.users, spawn_rate=self.plan.users)
        assert runner.spawning_greenlet is not None
        runner.spawning_greenlet.join()

    def begin(self, at_s: float, at_ms: int) -> None:
        self._world.begin(at_s, at_ms, share=0, shares=1)
        self._meter.start()
        gevent.spawn(note_levels_for_ever, self._world)

    def collect(self) -> None:
        self.book.add(self._world.take())

    def now(self) -> tuple[dict[str, int], int]:
        return dict(self._world.present), sum(self._world.open.values())

    def finish(self) -> None:
        drain = Drain(self._environment, self._world)
        drain.stop_asking()
        self.generators.append(self._meter.figures(0))
        drain.finish()
        self.collect()


class MasterLead(Lead):
    """A master and its workers, children of it, on a port that was free when they began."""

    def __init__(self, environment: Environment, plan: UsersPlan, directory: Path) -> None:
        super().__init__(plan)
        self._runner = environment.create_master_runner("127.0.0.1", 0)
        environment.events.worker_report.add_listener(self._reported)  # type: ignore[no-untyped-call]
        self._runner.register_message(FINAL, self._final)
        self._workers: list[subprocess.Popen[bytes]] = []
        self._standing: dict[str, Report] = {}
        self._finals: set[str] = set()
        port = str(self._runner.server.port)
        for number in range(plan.workers):
            command = [sys.executable, "-m", "loadtest.users.child", str(directory), str(number), port]
            # Its input stays open for as long as this process lives, and no longer.
            self._workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr))

    def prepare(self) -> None:
        within_s = _READY_WITHIN_S + WORKER_READY_S * self.plan.workers
        deadline_s = time.monotonic() + within_s
        while len(self._runner.clients.ready) < self.plan.workers:
            self._demand(time.monotonic() < deadline_s, f"workers were not there within {within_s:.0f} s")
            self._demand(not self._gone(), "a worker ended before the run began")
            gevent.sleep(_POLL_S)
        self._runner.start(self.plan.users, spawn_rate=self.plan.users)
        within_s = _READY_WITHIN_S + self.plan.users / _USERS_MADE_PER_S
        deadline_s = time.monotonic() + within_s
        while self._runner.user_count < self.plan.users:
            self._demand(time.monotonic() < deadline_s, f"users were not there within {within_s:.0f} s")
            self._demand(not self._gone(), "a worker ended before the run began")
            gevent.sleep(_POLL_S)

    def begin(self, at_s: float, at_ms: int) -> None:
        dispatcher = self._runner._users_dispatcher
        assert isinstance(dispatcher, EvenDispatcher)
        order = dispatcher.order
        for share, worker in enumerate(order):
            told = {"at_s": at_s, "at_ms": at_ms, "share": share, "shares": len(order)}
            self._runner.send_message(BEGIN, told, client_id=worker)

    def collect(self) -> None:
        # The others' figures are kept; a run that lost users is over.
        for number in self._gone():
            because = f"worker {number} ended before the run did: what it had not reported yet is missing"
            if because not in self.invalid_because:
                self.invalid_because.append(because)

    def now(self) -> tuple[dict[str, int], int]:
        users: dict[str, int] = {}
        for report in self._standing.values():
            for crowd, number in report.users.items():
                users[crowd] = users.get(crowd, 0) + number
        return users, sum(report.open for report in self._standing.values())

    def finish(self) -> None:
        self._runner.send_message(FINISH)
        within_s = self.plan.drain_s + FINAL_WITHIN_S + self.plan.users / USERS_ENDED_PER_S
        deadline_s = time.monotonic() + within_s
        while len(self._finals) + len(self._gone()) < self.plan.workers:
            if time.monotonic() >= deadline_s:
                self.invalid_because.append(f"a worker did not finish within {within_s:.0f} s")
                break
            gevent.sleep(_POLL_S)
        self.collect()

    def end(self) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait()

    def _reported(self, client_id: str, data: dict[str, Any], **_: object) -> None:
        found = data.get(REPORT)
        if found is not None and client_id not in self._finals:
            report = report_of(found)
            self._standing[client_id] = report
            self.book.add(Book.of_report(report.book))

    def _final(self, environment: Environment, msg: Any, **_: object) -> None:
        self.book.add(Book.of_report(msgspec.json.decode(msg.data["book"], type=BookReport)))
        self.generators.append(msgspec.json.decode(msg.data["generator"], type=Generator))
        self._finals.add(msg.node_id)

    def _gone(self) -> list[int]:
        return [number for number, worker in enumerate(self._workers) if worker.poll() is not None]

    def _demand(self, holds: bool, otherwise: str) -> None:
        if not holds:
            _LOG.error(otherwise)
            self.end()
            os._exit(1)


def _say(line: Line) -> None:
    os.write(1, encode_line(line))
