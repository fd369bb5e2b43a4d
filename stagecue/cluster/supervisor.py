"""Starts the members of a local cluster, says when one dies, brings it back, and stops all of them in order."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any, Final

from contract.backoff import Backoff
from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.cluster import LocalCluster
from loadtest.cluster.member import Member
from stagecue.cluster.state import ClusterState, write_state

__all__ = ["Supervisor"]

_RETRY_FIRST_S: Final = 0.5
_RETRY_CAP_S: Final = 15.0
_PROVEN_AFTER_S: Final = 30.0
"""A member that lived this long is restarted without delay again."""
_RESTART_PATIENCE_S: Final = 600.0
"""A member that is alive and waits for another is not what is wrong: it is left to wait."""


class Supervisor:
    """Runs one LocalCluster until told to stop. `say(line)` gets a line for each thing worth knowing."""

    def __init__(self, cluster: LocalCluster, say: Callable[[str], None], *, restart: bool = True) -> None:
        self._cluster = cluster
        self._say = say
        self._restart = restart

    async def run(self, stop: asyncio.Event, on_ready: Callable[[LocalCluster], None]) -> None:
        """Until `stop`, in a directory that was claimed. Raises CouldNotRun when the cluster does not start.

        Nothing of it runs afterwards.
        """
        cluster = self._cluster
        cluster.directory.mkdir(parents=True, exist_ok=True)
        self._note_changes()
        starting = asyncio.create_task(cluster.start(), name="cluster.start")
        stopping = asyncio.create_task(stop.wait(), name="cluster.stop")
        watching: list[asyncio.Task[None]] = []
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return
            starting.result()
            on_ready(cluster)
            watching = [
                asyncio.create_task(self._watch(member), name=f"watch.{member.name}")
                for member in cluster.members.values()
            ]
            pending: set[asyncio.Task[Any]] = {stopping, *watching}
            while not stop.is_set():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a watch that ends has told why; one that failed ends all
        finally:
            for task in (starting, stopping, *watching):
                task.cancel()
            await asyncio.gather(starting, stopping, *watching, return_exceptions=True)
            await cluster.stop()
            self._write()

    async def _watch(self, member: Member) -> None:
        """Tell of each end of it and bring it back."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(first_s=_RETRY_FIRST_S, cap_s=_RETRY_CAP_S, jitter=random.random)
        while True:
            began_s = loop.time()
            how = _how_it_ended(await member.wait())
            if not self._restart:
                self._say(f"{member.name} {how}; it stays ended (--no-restart). Its log: {member.log_path}")
                self._write()
                return
            if loop.time() - began_s >= _PROVEN_AFTER_S:
                backoff.reset()
            while True:
                pause_s = backoff.next_s()
                self._say(f"{member.name} {how}; starting it again in {pause_s:.1f} s. Its log: {member.log_path}")
                await asyncio.sleep(pause_s)
                try:
                    await member.start(within_s=_RESTART_PATIENCE_S)
                except CouldNotRun as exc:
                    how = f"did not start: {str(exc).splitlines()[0]}"
                else:
                    break
            self._say(f"{member.name} is ready again, {member.ready_after_s:.1f} s after its start")
            self._write()

    def _note_changes(self) -> None:
        """Keep the file true while members start, so that those of a start that is killed are found."""
        told = self._cluster.on_change

        def changed(member: Member, what: str) -> None:
            self._write()
            told(member, what)

        self._cluster.on_change = changed

    def _write(self) -> None:
        cluster = self._cluster
        write_state(
            cluster.directory,
            ClusterState(
                supervisor_pid=os.getpid(),
                directory=str(cluster.directory),
                members=tuple(cluster.addresses()),
                operator_token_file=str(cluster.data_dir / "operator.token"),
            ),
        )


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by signal {-code}"
    return f"ended with code {code}"
