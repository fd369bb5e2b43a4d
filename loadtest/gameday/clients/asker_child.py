"""Clients that want maps: `python -m loadtest.gameday.clients.asker_child PLAN`. Ends with its input.

Wants come at random instants, whether others were answered or not. What fails is asked for again: at once without a
budget; with one a few times, later each time and never before Retry-After, then within a refetch window that grows.

Commands: `start RATE SECONDS`, `stand`, `finish`.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from loadtest.bench.fleet_plan import source_addresses
from loadtest.bench.prefetch.asking import FORMS, request_of
from loadtest.bench.prefetch.night import profile_id
from loadtest.gameday.clients.asking import Ask
from loadtest.gameday.clients.budget import RetryBudget
from loadtest.gameday.clients.commands import read_plan, serve
from loadtest.gameday.clients.net import Net
from loadtest.gameday.clients.records import Rows, Step

__all__ = ["DEGRADED", "AskerPlan", "AskerStand", "main"]

DEGRADED: Final = 203
"""The status noted for a default map: an answer, though not one's own."""
_MARK: Final = b'"degraded":'
_OPEN_MAX: Final = 15_000
"""Connections of all clients at once; below the files of a process. More wait, and are counted."""
_AGAIN_S: Final = 0.01


class AskerPlan(msgspec.Struct, frozen=True, kw_only=True):
    port: int
    form: str
    """Of `FORMS`: how the operation is named."""
    rows: str
    budget: bool
    profiles: int
    timeout_s: float
    tries: int
    refetch_window_s: float
    addresses: int = 200
    block: int = 74
    seed: int = 1


class AskerStand(msgspec.Struct, frozen=True, kw_only=True):
    wanted: int
    asked: int
    answered: int
    open: int
    held_back: int
    """Requests that waited for a file to be free: the storm would have been larger."""


class _Asker:
    def __init__(self, plan: AskerPlan, net: Net) -> None:
        self.plan = plan
        self.net = net
        self.rows = Rows()
        self.chance = random.Random(plan.seed)
        self.sources = source_addresses(plan.addresses, block=plan.block)
        self.wanted = self.asked = self.answered = self.open = self.held_back = 0
        self._until_s = 0.0

    def obey(self, words: list[str]) -> object:
        match words:
            case ["start", rate, lasts_s]:
                now_s = time.monotonic()
                self._until_s = now_s + float(lasts_s)
                self._next(now_s, float(rate))
            case ["stand"]:
                return self.stand()
            case ["finish"]:
                self.rows.save(Path(self.plan.rows))
                return {"lag_p99_ms": self.net.lag_p99_ms}
            case _:
                raise AssertionError(f"no such command: {words}")
        return {}

    def stand(self) -> AskerStand:
        return AskerStand(
            wanted=self.wanted, asked=self.asked, answered=self.answered, open=self.open, held_back=self.held_back
        )

    def request(self, number: int) -> bytes:
        plan = self.plan
        profile = profile_id(number % plan.profiles)
        return request_of(FORMS[plan.form], plan.port, profile, None, "Connection: close\r\n")

    def _next(self, at_s: float, rate: float) -> None:
        """The next want; its time follows from the one before, not from when that was seen to."""
        at_s += self.chance.expovariate(rate)
        if at_s < self._until_s:
            self.net.at(at_s, lambda: self._want(at_s, rate))

    def _want(self, at_s: float, rate: float) -> None:
        number, self.wanted = self.wanted, self.wanted + 1
        self.rows.add(Step.WANTED, number)
        _Want(self, number).ask()
        self._next(at_s, rate)


class _Want:
    """One map one client wants."""

    __slots__ = ("_asker", "_budget", "_number")

    def __init__(self, asker: _Asker, number: int) -> None:
        self._asker = asker
        self._number = number
        plan = asker.plan
        self._budget = (
            RetryBudget(tries=plan.tries, refetch_window_ms=round(plan.refetch_window_s * 1000))
            if plan.budget
            else None
        )

    def ask(self) -> None:
        asker, plan = self._asker, self._asker.plan
        if asker.open >= _OPEN_MAX:
            asker.held_back += 1
            asker.net.at(time.monotonic() + _AGAIN_S, self.ask)
            return
        asker.asked += 1
        asker.open += 1
        asker.rows.add(Step.ASKED, self._number)
        source = asker.sources[self._number % len(asker.sources)]
        Ask(asker.net, ("127.0.0.1", plan.port), source, asker.request(self._number), plan.timeout_s, self._told)

    def _told(self, status: int, retry_after_s: float, body: bytes) -> None:
        asker = self._asker
        asker.open -= 1
        if status == 200 and b'"errors"' not in body[:32]:
            asker.answered += 1
            asker.rows.add(Step.ANSWERED, self._number, DEGRADED if _MARK in body else 200)
            return
        asker.rows.add(Step.DENIED, self._number, status)
        asker.net.at(time.monotonic() + self._pause_s(retry_after_s), self.ask)

    def _pause_s(self, retry_after_s: float) -> float:
        if self._budget is None:
            return 0.0
        again = self._budget.failed(retry_after_s, self._asker.chance.random())
        if again.gave_up:
            self._asker.rows.add(Step.GIVEN_UP, self._number)
        return again.pause_s


def main() -> int:
    plan, net = read_plan(AskerPlan), Net()
    return serve(net, _Asker(plan, net).obey, ready={})


if __name__ == "__main__":
    sys.exit(main())
