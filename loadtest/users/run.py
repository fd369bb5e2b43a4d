"""A run of locust users in processes of their own, from asyncio's side. Imports neither locust nor gevent.

    async with LocustRun(plan, directory) as run:
        await run.started()
        ...
        print(run.snapshot())
        ...
        result = await run.finish()

Inside the block the processes run; after it they are gone, whatever happened. `plan.duration_s` ends a run by itself;
`finish` ends it now, or reads the result of one that has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import aiohttp
import msgspec

from loadtest.bench.outcome import CouldNotRun
from loadtest.users.exchange import (
    FINAL_WITHIN_S,
    FINISH,
    OUTCOME_FILE,
    PLAN_FILE,
    USERS_ENDED_PER_S,
    WORKER_READY_S,
    Begun,
    Line,
    Outcome,
    Over,
    Standing,
)
from loadtest.users.figures import Book
from loadtest.users.plan import UsersPlan
from loadtest.users.result import BroadcastTimes, UsersResult, UsersSnapshot
from loadtest.users.summing import result_of

__all__ = ["LocustRun"]

_BEGIN_WITHIN_S: Final = 30.0
_USERS_MADE_PER_S: Final = 500
"""How fast greenlets come to be, at the very least, on a busy machine."""
_FINISH_WITHIN_S: Final = 15.0
"""On top of what the master gives its workers."""
_END_WITHIN_S: Final = 5.0
_ASK_WITHIN_S: Final = 5.0


class LocustRun:
    """One run. An async context manager, not reusable. Every method raises CouldNotRun, with the end of the log of
    its processes, when they ended before their time or do not answer."""

    def __init__(self, plan: UsersPlan, directory: Path) -> None:
        """`directory` is made where it does not exist; it gets the plan, the log and the outcome."""
        self.plan = plan
        self.directory = directory
        self.began_at_ms: int | None = None
        """Wall clock of the beginning; None before it."""
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self._over = asyncio.Event()
        self._ended = asyncio.Event()
        self._snapshot = UsersSnapshot(
            at_s=0.0, users={}, sent=0, sent_per_s=0.0, failed=0, refused=0, handshakes=0, open=0, delivered=0
        )

    @property
    def log_path(self) -> Path:
        return self.directory / "users.log"

    async def __aenter__(self) -> Self:
        assert self._process is None, "started once"
        try:
            log = self._prepare()
        except OSError as exc:
            raise CouldNotRun(f"{self.directory}: cannot be written: {exc}") from exc
        with log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "loadtest.users.child", str(self.directory),
                stdin=PIPE, stdout=PIPE, stderr=log,
                # Its workers are its children: one group to end, whatever became of the master.
                start_new_session=True,
            )  # fmt: skip
        self._reader = asyncio.create_task(self._read(self._process), name="locust-run-lines")
        return self

    def _prepare(self) -> BinaryIO:
        """The directory with the plan in it, and no outcome of another run; its log, open."""
        self.directory.mkdir(parents=True, exist_ok=True)
        plan_file = self.directory / PLAN_FILE
        # The plan carries an operator's token.
        plan_file.touch(mode=0o600)
        plan_file.write_bytes(msgspec.json.encode(self.plan))
        (self.directory / OUTCOME_FILE).unlink(missing_ok=True)
        return self.log_path.open("ab")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert self._reader is not None
        try:
            _signal_group(process.pid, signal.SIGTERM)
            async with asyncio.timeout(_END_WITHIN_S):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            _signal_group(process.pid, signal.SIGKILL)
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await process.wait()

    async def started(self) -> None:
        """Wait until the run has begun: all processes are up, and the first users arrive now."""
        within_s = _BEGIN_WITHIN_S + WORKER_READY_S * self.plan.workers + self.plan.users / _USERS_MADE_PER_S
        await self._until(self._begun, within_s, "did not begin")

    def snapshot(self) -> UsersSnapshot:
        """How it stands; a second or two old. All zero before the beginning."""
        return self._snapshot

    async def ended(self) -> None:
        """Wait until `plan.duration_s` is over and all figures are in; at once if they are.

        Without a duration: until the run ends by itself, which it does only when a worker of it died.
        """
        await self.started()
        duration_s = self.plan.duration_s
        await self._until(self._over, None if duration_s is None else duration_s + self._finish_within_s, "did not end")

    async def finish(self) -> UsersResult:
        """End it, if it has not ended, and read the result. `partial` where that is before its time."""
        process = self._process
        if process is None:
            raise CouldNotRun("the users' processes were stopped")
        assert process.stdin is not None
        if not self._over.is_set():
            try:
                process.stdin.write(FINISH)
                await process.stdin.drain()
            except ConnectionError:
                pass  # it is ending by itself; the outcome says whether it got there
            await self._until(self._over, self._finish_within_s, "did not finish")
        try:
            read = await asyncio.to_thread((self.directory / OUTCOME_FILE).read_bytes)
            outcome = msgspec.json.decode(read, type=Outcome)
        except (OSError, msgspec.MsgspecError) as exc:
            raise CouldNotRun(f"the users' outcome cannot be read: {exc}{self._log_end()}") from exc
        broadcasts = await self._broadcasts()
        return await asyncio.to_thread(_result, self.plan, outcome, broadcasts)

    @property
    def _finish_within_s(self) -> float:
        """More than the master takes at most: who waits for it hears its own words."""
        return self.plan.drain_s + FINAL_WITHIN_S + self.plan.users / USERS_ENDED_PER_S + _FINISH_WITHIN_S

    async def _until(self, event: asyncio.Event, within_s: float | None, otherwise: str) -> None:
        """Wait for an event or the end of the processes, whichever comes first."""
        waits = [asyncio.create_task(each.wait()) for each in (event, self._ended)]
        try:
            await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if event.is_set():
            return
        if self._ended.is_set():
            raise CouldNotRun(f"the users' processes ended{self._log_end()}")
        raise CouldNotRun(f"the users {otherwise} within {within_s or 0.0:.0f} s{self._log_end()}")

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                found = msgspec.json.decode(line, type=Line)
                if isinstance(found, Standing):
                    self._snapshot = found.snapshot
                elif isinstance(found, Begun):
                    self.began_at_ms = found.at_ms
                    self._begun.set()
                elif isinstance(found, Over):
                    self._over.set()
        finally:
            self._ended.set()

    async def _broadcasts(self) -> Mapping[tuple[str, int], BroadcastTimes] | None:
        """When broadcasts were due and went out, from the producer; None where the plan names none, or it is gone."""
        if not self.plan.producer_url or not self.plan.operator_token or not self.plan.event_ids:
            return None
        found: dict[tuple[str, int], BroadcastTimes] = {}
        headers = {"Authorization": f"Bearer {self.plan.operator_token}"}
        try:
            async with (
                asyncio.timeout(_ASK_WITHIN_S),
                aiohttp.ClientSession(headers=headers, trust_env=False) as session,
            ):
                for event_id in self.plan.event_ids:
                    url = f"{self.plan.producer_url.rstrip('/')}/v1/events/{event_id}/broadcasts"
                    async with session.get(url) as answer:
                        answer.raise_for_status()
                        items: list[dict[str, Any]] = (await answer.json())["items"]
                    for item in items:
                        times = BroadcastTimes(item.get("due_at_ms"), item.get("dispatched_at_ms"))
                        found[item["topic"], item["timestamp"]] = times
        except (aiohttp.ClientError, TimeoutError, LookupError, ValueError):
            return None
        return found

    def _log_end(self, lines: int = 12) -> str:
        found = self.log_path.read_text(errors="replace").splitlines()[-lines:] if self.log_path.exists() else []
        return "; their log ends:\n" + "\n".join(found) if found else "; they logged nothing"


def _result(
    plan: UsersPlan, outcome: Outcome, broadcasts: Mapping[tuple[str, int], BroadcastTimes] | None
) -> UsersResult:
    return result_of(
        plan,
        Book.of_report(outcome.book),
        began_at_ms=outcome.began_at_ms,
        lasted_s=outcome.lasted_s,
        generators=outcome.generators,
        partial=outcome.partial,
        broadcasts=broadcasts,
        invalid_because=outcome.invalid_because,
    )


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(group, number)
