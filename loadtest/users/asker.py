"""One user's asks: tried by its policy, counted and timed from the moment each was due. gevent.

What becomes of an ask, each once: answered, given up, or unfinished when the user or the run ended under it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

import gevent

from loadtest.users.asking import Ask, Heard, HttpRequest, NotAnAnswer, answered, is_unknown_hash, request_of
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
    """Asks of one user to one origin. Used by one greenlet at a time."""

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
        self._caller = Caller(url, timeout_s=world.plan.timeout_s)

    def ask(self, request: str, asked: Ask, *, due_s: float) -> Heard | None:
        """An operation of the DGS, due at `due_s`: its answer (200 without errors in it, or 304); None: given up."""
        by_hash = request_of(asked, _PATH, self._headers)
        return self._tried(
            request,
            by_hash,
            due_s=due_s,
            check=answered,
            whole=lambda: request_of(asked, _PATH, self._headers, whole=True),
        )

    def send(self, request: str, sent: HttpRequest, *, due_s: float) -> Heard | None:
        """Any other request, the same way: its answer (2xx or 304); None: given up."""
        return self._tried(request, sent, due_s=due_s, check=None, whole=None)

    def rest(self, until_next_s: float) -> None:
        """Close the connection if the next request is far off, as devices do."""
        if until_next_s > 5.0:
            self._caller.close()

    def close(self) -> None:
        self._caller.close()

    def _tried(
        self,
        request: str,
        sent: HttpRequest,
        *,
        due_s: float,
        check: Callable[[Heard], object] | None,
        whole: Callable[[], HttpRequest] | None,
    ) -> Heard | None:
        world, of = self._world, f"{self._crowd.name}/{request}"
        if world.stopping:
            gevent.sleep(_FOR_EVER_S)  # this user is about to be ended
        world.book.count(of, "asks")
        world.asks_under_way += 1
        outcome = "unfinished"
        tries = 0
        try:
            while not world.stopping or not tries:
                tried = self._once(of, sent, check)
                if tried.verdict == "unknown_hash" and whole is not None:
                    # Learning an operation is no retry: its first user makes it known for all others.
                    sent, whole = whole(), None
                    continue
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
            world.asks_under_way -= 1
            world.book.count(of, outcome)
            world.book.time(of, "time", max(0.0, world.now_s() - due_s) * 1000)

    def _pause_s(self, tried: _Tried, tries: int) -> float | None:
        """Before the next try; None: none."""
        if tried.verdict != "failed":
            return None
        policy, draw = self._crowd.retries, self._chance.random()
        return next_try_after_s(policy, tries, budget=self.budget, retry_after_s=tried.retry_after_s, draw=draw)

    def _once(self, of: str, sent: HttpRequest, check: Callable[[Heard], object] | None) -> _Tried:
        """One request on the wire."""
        world = self._world
        began_s = world.now_s()
        bin_number = world.bin_of(began_s)
        world.book.count_in(of, "sent", bin_number)
        try:
            heard = self._caller.call(sent)
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
