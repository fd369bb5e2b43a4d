"""A DGS under an open-loop load in virtual time: one CPU, one dependency with slots, and the real gate in between.

The CPU serves its queue by class; every other time whoever waits for an interval already, whatever its class, so that
it is at least refused. Framing and refusing cost CPU; an admitted request costs more, and then waits for
a slot of the dependency, which queues what comes too much. Nobody waits for anybody before asking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from heapq import heappop, heappush
from random import Random
from typing import Final, NamedTuple

from dgs.priority.gate import PriorityGate
from dgs.priority.rules import Ruleset
from dgs.priority.ruleset_file import RulesetFile
from dgs.priority.shedding import INTERVAL_S
from dgs.serving import CLASSES, Class, Seen, Verdict

__all__ = ["NOW_MS", "SEEN", "Done", "Stream", "World"]

NOW_MS: Final = 1_700_000_000_000
EVENT: Final = "tyson-paul"
SEEN: Final[Mapping[Class, Seen]] = {
    "critical": Seen("prefetchEvent", kind="TV", event_id=EVENT),
    "degraded": Seen("prefetchHome", kind="TV"),
    "best_effort": Seen("prefetchEvent", kind="TV", event_id=EVENT, has_map=True),
    "bulk": Seen("page"),
}
"""What the rules that ship put into each class while the event's window is open."""


class Stream(NamedTuple):
    klass: Class
    per_s: float
    from_s: float
    until_s: float


class Done(NamedTuple):
    at_s: float
    klass: Class
    arrived_s: float
    ok: bool


class World:
    """One run. `service_s` is the dependency's pace at a virtual second; `hangs` says when calls never end."""

    def __init__(
        self,
        *,
        seed: int = 1,
        slots: int = 20,
        service_s: Callable[[float], float] = lambda now_s: 0.02,
        hangs: Callable[[float], bool] = lambda now_s: False,
        deadline_s: float = 0.25,
        cpu_serve_s: float = 0.0001,
        cpu_shed_s: float = 0.00002,
        needs_dependency: bool = True,
        ruleset: Ruleset | None = None,
        schedules: Callable[[], Mapping[str, Collection[int]]] | None = None,
    ) -> None:
        self._random = Random(seed)
        self._slots, self._service_s, self._hangs, self._deadline_s = slots, service_s, hangs, deadline_s
        self._cpu_serve_s, self._cpu_shed_s = cpu_serve_s, cpu_shed_s
        self._needs = needs_dependency
        self.gate = PriorityGate(
            ruleset or RulesetFile().ruleset,
            schedules=schedules or (lambda: {EVENT: (NOW_MS + 3_600_000,)}),
            draw=self._random.random,
            now_s=0.0,
            now_ms=NOW_MS,
            dependencies=("ranking",),
        )
        self.done: list[Done] = []
        self.verdicts: list[tuple[float, Verdict]] = []
        self.calls: list[float] = []
        self.limits: list[tuple[float, int]] = []
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = 0
        self._queues: dict[Class, deque[tuple[float, Seen]]] = {klass: deque() for klass in CLASSES}
        self._cpu_free_s = 0.0
        self._cpu_busy = self._odd = False
        self._busy_slots = 0
        self._waiting: deque[Callable[[float], None]] = deque()

    def run(self, streams: Collection[Stream], until_s: float) -> World:
        for stream in streams:
            self._at(stream.from_s, lambda now_s, stream=stream: self._arrive(stream, now_s))
        while self._events and self._events[0][0] <= until_s:
            now_s, _, happen = heappop(self._events)
            happen(now_s)
        return self

    def success(self, klass: Class, from_s: float, until_s: float) -> float:
        ended = [done.ok for done in self.done if done.klass == klass and from_s <= done.arrived_s < until_s]
        return sum(ended) / len(ended)

    def goodput(self, from_s: float, until_s: float, klass: Class | None = None) -> float:
        """Served a second, of one class or all."""
        served = sum(done.ok and from_s <= done.at_s < until_s and klass in (None, done.klass) for done in self.done)
        return served / (until_s - from_s)

    def latency_s(self, klass: Class, quantile: float, from_s: float, until_s: float) -> float:
        took = sorted(
            done.at_s - done.arrived_s
            for done in self.done
            if done.ok and done.klass == klass and from_s <= done.arrived_s < until_s
        )
        return took[int(quantile * (len(took) - 1))]

    def _at(self, at_s: float, happen: Callable[[float], None]) -> None:
        self._order += 1
        heappush(self._events, (at_s, self._order, happen))

    def _arrive(self, stream: Stream, now_s: float) -> None:
        if now_s >= stream.until_s:
            return
        self._at(now_s + self._random.expovariate(stream.per_s), lambda at_s: self._arrive(stream, at_s))
        seen = SEEN[stream.klass]
        klass = self.gate.classify(seen, NOW_MS + int(now_s * 1000))
        self._queues[klass].append((now_s, seen))
        if not self._cpu_busy:
            self._cpu_busy = True
            self._at(now_s, self._next)

    def _next(self, now_s: float) -> None:
        klass = self._whose_turn(now_s)
        if klass is None:
            self._cpu_busy = False
            return
        arrived_s, seen = self._queues[klass].popleft()
        now_ms = NOW_MS + int(now_s * 1000)
        verdict = self.gate.admit(klass, seen, now_s=now_s, now_ms=now_ms, queue_delay_s=now_s - arrived_s)
        cost_s = self._cpu_serve_s if verdict.admit else self._cpu_shed_s
        self._at(now_s + cost_s, self._next)
        if verdict.admit and self._needs:
            call = self.gate.enter("ranking", klass, now_s=now_s)
            if call is None:
                verdict = self.gate.turn_away(klass, seen, now_ms=now_ms)
            else:
                self._call(call, klass, arrived_s, now_s)
                return
        elif verdict.admit:
            self._finish(klass, arrived_s, now_s + cost_s, now_s)
            return
        self.verdicts.append((now_s, verdict))
        self.done.append(Done(now_s, klass, arrived_s, ok=False))

    def _whose_turn(self, now_s: float) -> Class | None:
        waiting = [klass for klass in CLASSES if self._queues[klass]]
        self._odd = not self._odd
        if self._odd:
            aged = [klass for klass in waiting if now_s - self._queues[klass][0][0] > INTERVAL_S]
            waiting = aged[-1:] or waiting
        return waiting[0] if waiting else None

    def _call(self, call: object, klass: Class, arrived_s: float, now_s: float) -> None:
        self.calls.append(now_s)
        over = False

        def end(at_s: float, *, late: bool) -> None:
            nonlocal over
            if over:
                return
            over = True
            self.gate.leave("ranking", call, outcome="late" if late else "ok", now_s=at_s)  # type: ignore[arg-type]
            self.limits.append((at_s, self.gate.dependencies["ranking"].limiter.limit))
            if late:
                self.gate.finished(klass, took_s=at_s - now_s, outcome="late", now_s=at_s)
                self.done.append(Done(at_s, klass, arrived_s, ok=False))
            else:
                self._finish(klass, arrived_s, at_s, now_s)

        self._at(now_s + self._deadline_s, lambda at_s: end(at_s, late=True))
        if self._hangs(now_s):
            return
        self._waiting.append(lambda at_s: end(at_s, late=False))
        self._serve(now_s)

    def _serve(self, now_s: float) -> None:
        while self._waiting and self._busy_slots < self._slots:
            end = self._waiting.popleft()
            self._busy_slots += 1
            self._at(now_s + self._service_s(now_s), lambda at_s, end=end: self._served(end, at_s))

    def _served(self, end: Callable[[float], None], now_s: float) -> None:
        self._busy_slots -= 1
        end(now_s)
        self._serve(now_s)

    def _finish(self, klass: Class, arrived_s: float, at_s: float, began_s: float) -> None:
        self.gate.finished(klass, took_s=at_s - began_s, outcome="ok", now_s=at_s)
        self.done.append(Done(at_s, klass, arrived_s, ok=True))
