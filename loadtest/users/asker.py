"""One user's asks: tried by its policy, counted and timed from the moment each was due. gevent.

What becomes of an ask, each once: answered, given up, or unfinished when the user or the run ended under it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

import gevent

from loadtest.users.asking import (
    Ask,
    Heard,
    HttpRequest,
    NotAnAnswer,
    answered,
    is_unknown_hash,
    origin_of,
    request_of,
    target_of,
)
from loadtest.users.caller import Caller, CallFailed
from loadtest.users.plan import Crowd
from loadtest.users.retrying import RetryBudget, is_retryable, next_try_after_s
from loadtest.users.world import World

__all__ = ["Asker"]

_PATH: Final = "/graphql"
_REFUSALS: Final = (429, 503)
_FOR_EVER_S: Final = 3600.0
"""Nothing waits for a user that sleeps when a run ends; it is ended in its sleep."""


class _Tried(NamedTuple):
    """One request; `failed` may be tried again, `hopeless` would fail again."""

    verdict: Literal["answer", "unknown_hash", "failed", "hopeless"]
    heard: Heard | None = None
    retry_after_s: float | None = None


class Asker:
    """Asks of one user to one origin, and to where its answers lead. Used by one greenlet at a time."""

    def __init__(
        self,
        world: World,
        crowd: Crowd,
        url: str,
        *,
        headers: Mapping[str, str],
        chance: random.Random,
        budget: RetryBudget | None = None,
    ) -> None:
        self.budget = budget or RetryBudget()
        self._world = world
        self._crowd = crowd
        self._headers = headers
        self._chance = chance
        self._caller = Caller(origin_of(url), timeout_s=world.plan.timeout_s)
        self._elsewhere: Caller | None = None

    def ask(self, request: str, asked: Ask, *, due_s: float, at: str = "") -> Heard | None:
        """An operation of the DGS, due at `due_s`: its answer (200 without errors in it, or 304); None: given up.

        `at`: the URL to ask at; empty: where this user asks first.
        """
        origin, path = target_of(at) if at else ("", _PATH)
        by_hash = request_of(asked, path, self._headers)
        return self._tried(
            request,
            by_hash,
            due_s=due_s,
            origin=origin,
            check=answered,
            whole=lambda: request_of(asked, path, self._headers, whole=True),
        )

    def send(self, request: str, sent: HttpRequest, *, due_s: float, origin: str = "") -> Heard | None:
        """Any other request, the same way: its answer (2xx or 304); None: given up."""
        return self._tried(request, sent, due_s=due_s, origin=origin, check=None, whole=None)

    def rest(self, until_next_s: float) -> None:
        """Close the connection if the next request is far off, as devices do."""
        if until_next_s > 5.0:
            self.close()

    def close(self) -> None:
        for each in (self._caller, self._elsewhere):
            if each is not None:
                each.close()

    def _caller_to(self, origin: str) -> Caller:
        """The own one, or the one to where answers last led."""
        if not origin or origin == self._caller.origin:
            return self._caller
        if self._elsewhere is None or self._elsewhere.origin != origin:
            if self._elsewhere is not None:
                self._elsewhere.close()
            self._elsewhere = Caller(origin, timeout_s=self._world.plan.timeout_s)
        return self._elsewhere

    def _tried(
        self,
        request: str,
        sent: HttpRequest,
        *,
        due_s: float,
        origin: str,
        check: Callable[[Heard], object] | None,
        whole: Callable[[], HttpRequest] | None,
    ) -> Heard | None:
        world, of = self._world, f"{self._crowd.name}/{request}"
        if due_s > world.stopped_s:
            gevent.sleep(_FOR_EVER_S)  # this user is about to be ended
        caller = self._caller_to(origin)
        world.book.count(of, "asks")
        # Due before the end and never begun: it is counted with what it waited, and holds nobody up.
        begins = not world.stopping
        world.asks_under_way += begins
        world.book.count(of, "moved", int(begins and caller is not self._caller))
        outcome = "unfinished"
        tries = 0
        try:
            while begins and (not world.stopping or not tries):
                tried = self._once(caller, of, sent, check)
                if tried.verdict == "unknown_hash" and whole is not None:
                    # Learning an operation is no retry: its first user makes it known for all others.
                    sent, whole = whole(), None
                    continue
                if tried.verdict == "unknown_hash":
                    world.book.count(of, "failed")
                    world.book.reason(of, "operation unknown even as sent whole")
                if tried.verdict == "answer":
                    self.budget.answered()
                    outcome = "answered"
                    return tried.heard
                tries += 1
                pause_s = self._pause_s(tried, tries)
                if pause_s is None:
                    outcome = "gave_up"
                    return None
                gevent.sleep(pause_s)
                world.book.count(of, "retries")
            gevent.sleep(_FOR_EVER_S)
            return None
        finally:
            world.asks_under_way -= begins
            world.book.count(of, outcome)
            world.book.time(of, "time", max(0.0, world.now_s() - due_s) * 1000)

    def _pause_s(self, tried: _Tried, tries: int) -> float | None:
        """Before the next try; None: none."""
        if tried.verdict != "failed":
            return None
        policy, draw = self._crowd.retries, self._chance.random()
        return next_try_after_s(policy, tries, budget=self.budget, retry_after_s=tried.retry_after_s, draw=draw)

    def _once(self, caller: Caller, of: str, sent: HttpRequest, check: Callable[[Heard], object] | None) -> _Tried:
        """One request on the wire."""
        world = self._world
        began_s = world.now_s()
        bin_number = world.bin_of(began_s)
        world.book.count_in(of, "sent", bin_number)
        try:
            heard = caller.call(sent)
        except CallFailed as exc:
            return self._failed(of, bin_number, str(exc), began_s)
        world.book.count(of, f"={heard.status}")
        if heard.status in _REFUSALS:
            world.book.count_in(of, "refused", bin_number)
            if heard.retry_after_s is not None:
                world.book.count(of, "refused_with_retry_after")
            self._told(of, began_s, heard, None)
            return _Tried("failed", retry_after_s=heard.retry_after_s)
        if heard.status != 304 and not 200 <= heard.status < 300:
            again = is_retryable(heard.status)
            return self._failed(of, bin_number, f"status {heard.status}", began_s, again=again)
        if check is not None and heard.status == 200:
            if is_unknown_hash(heard):
                return _Tried("unknown_hash")
            try:
                check(heard)
            except NotAnAnswer as exc:
                return self._failed(of, bin_number, str(exc), began_s, again=False)
        if heard.status == 304:
            world.book.count(of, "unmodified")
        world.book.time(of, "service", (world.now_s() - began_s) * 1000)
        self._told(of, began_s, heard, None)
        return _Tried("answer", heard)

    def _failed(self, of: str, bin_number: int, reason: str, began_s: float, *, again: bool = True) -> _Tried:
        self._world.book.count_in(of, "failed", bin_number)
        self._world.book.reason(of, reason)
        self._told(of, began_s, None, CallFailed(reason))
        return _Tried("failed" if again else "hopeless")

    def _told(self, of: str, began_s: float, heard: Heard | None, error: Exception | None) -> None:
        """Locust's own statistics, where somebody looks at them."""
        told = self._world.on_request
        if told is not None:
            size = 0 if heard is None else len(heard.body)
            told("HTTP", of, (self._world.now_s() - began_s) * 1000, size, error)
