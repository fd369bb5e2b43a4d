"""An audience: `python -m loadtest.gameday.clients.audience_child PLAN`. Ends with its input.

Devices with maps and pictures, prefetched from the DGS as real ones do it.

Commands: `prefetch`, `connect SECONDS`, `stand`, `holding TOPIC REVISION`, `offline SHARE SECONDS`, `watch`,
`judge OUTBOX RESULT`. Each is answered with one line of JSON.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

import msgspec
import uvloop

from device_sim.audit import FleetAudit, audit_fleet, distinct_map_share, outbox_from_json
from device_sim.client import DeviceClient
from device_sim.device import DeviceOptions
from device_sim.fleet import Fleet, FleetOptions
from loadtest.bench.histogram import LatencyHistogram
from loadtest.bench.validity import GeneratorReport, GeneratorWatch
from loadtest.gameday.clients.commands import read_plan, say
from loadtest.gameday.lateness import counted_from_ms

__all__ = ["AudiencePlan", "AudienceResult", "AudienceStand", "Shown", "main"]


class AudiencePlan(msgspec.Struct, frozen=True, kw_only=True):
    devices: int
    dgs_url: str
    event_ids: tuple[str, ...]
    first: int = 0
    seed: int = 1
    prefetch_concurrency: int = 32
    prefetch_window_s: float = 0.0
    ttl_spread: float = 0.5
    artwork: bool = True
    """Pictures through a cache they share, as a CDN's edge is."""


class AudienceStand(msgspec.Struct, frozen=True, kw_only=True):
    devices: int
    connected: int
    subscribed: int
    showing: dict[str, int]
    """State key on the screen -> devices; "" before the first."""
    map_fetches: int
    failures: int
    """Fetches that failed for good."""
    refused: int


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """A render: when (wall clock, ms), on which device, of what, because of which broadcast (None: provisional)."""

    at_ms: int
    device: int
    topic: str
    state_key: str
    timestamp: int | None


class AudienceResult(msgspec.Struct, frozen=True, kw_only=True):
    audit: FleetAudit
    renders: list[Shown]
    cursors: list[dict[str, int | None]]
    """Of each device, at the end."""
    generator: GeneratorReport | None
    distinct_map_share: float
    live_hdr: dict[str, object]
    """Due time (a cue's or a rewind's: dispatch) to the socket, of all live deliveries: a LatencyHistogram, encoded."""
    shown_hdr: dict[str, object]
    """The same to the render."""


class _Audience:
    def __init__(self, plan: AudiencePlan, fleet: Fleet) -> None:
        self.plan = plan
        self.fleet = fleet
        self._unsubscribed: list[DeviceClient] = []
        self._watch: GeneratorWatch | None = None

    async def obey(self, words: list[str]) -> object:
        match words:
            case ["prefetch"]:
                await self.fleet.prefetch_all()
                self._unsubscribed = list(self.fleet.clients)
            case ["connect", over_s]:
                self.fleet.start_all(over_s=float(over_s))
            case ["stand"]:
                return self._stand()
            case ["holding", topic, revision]:
                return {"devices": self.fleet.count(lambda each: each.device.topics[topic].revision >= int(revision))}
            case ["offline", share, seconds]:
                return {"devices": len(self.fleet.take_offline(float(share), float(seconds)))}
            case ["watch"]:
                self._watch = await GeneratorWatch().__aenter__()
            case ["judge", outbox, result]:
                self._judge(Path(outbox), Path(result))
            case _:
                raise AssertionError(f"no such command: {words}")
        return {}

    def _stand(self) -> AudienceStand:
        self._unsubscribed = [each for each in self._unsubscribed if not _subscribed(each)]
        showing: Counter[str] = Counter()
        for client in self.fleet.clients:
            renders = client.device.renders
            showing[renders[-1].state_key if renders else ""] += 1
        stats = self.fleet.context.stats
        return AudienceStand(
            devices=self.plan.devices,
            connected=self.fleet.online,
            subscribed=self.plan.devices - len(self._unsubscribed) if self.fleet.clients else 0,
            showing=dict(showing),
            map_fetches=stats.map_fetches,
            failures=0 if self.fleet.prefetcher is None else self.fleet.prefetcher.counts.failures,
            refused=stats.refused,
        )

    def _judge(self, outbox: Path, result: Path) -> None:
        result.write_bytes(msgspec.json.encode(self._judged(outbox)))

    def _judged(self, outbox_file: Path) -> AudienceResult:
        generator = None if self._watch is None else self._watch.report()
        outbox = outbox_from_json(msgspec.json.decode(outbox_file.read_bytes()))
        logs = self.fleet.logs()
        due_ms = {(each.topic, each.timestamp): counted_from_ms(each) for each in outbox}
        live, shown = LatencyHistogram(), LatencyHistogram()
        renders = []
        for number, log in enumerate(logs):
            for arrival in log.arrivals:
                key = (arrival.frame.topic, getattr(arrival.frame, "timestamp", -1))
                if key in due_ms and not getattr(arrival.frame, "replayed", False):
                    live.record_ms(arrival.at_ms - due_ms[key])
            for render in log.renders:
                renders.append(Shown(render.at_ms, number, render.topic, render.state_key, render.timestamp))
                if render.timestamp is not None and (render.topic, render.timestamp) in due_ms:
                    shown.record_ms(render.at_ms - due_ms[render.topic, render.timestamp])
        return AudienceResult(
            audit=audit_fleet(outbox, logs, self.fleet.recorded),
            renders=renders,
            cursors=[dict(log.cursors) for log in logs],
            generator=generator,
            distinct_map_share=distinct_map_share(self.fleet.recorded),
            live_hdr=live.encode(),
            shown_hdr=shown.encode(),
        )


def _subscribed(client: DeviceClient) -> bool:
    device = client.device
    return device.online and all(state.cursor is not None for state in device.topics.values())


async def _serve(plan: AudiencePlan) -> None:
    options = FleetOptions(
        devices=plan.devices,
        dgs_url=plan.dgs_url,
        event_ids=plan.event_ids,
        first=plan.first,
        seed=plan.seed,
        device=DeviceOptions(ttl_spread=plan.ttl_spread),
        artwork="edge" if plan.artwork else "none",
        prefetch_concurrency=plan.prefetch_concurrency,
        prefetch_window_s=plan.prefetch_window_s,
    )
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Fleet(options) as fleet:
        audience = _Audience(plan, fleet)
        say({"devices": plan.devices})
        while line := await reader.readline():
            say(await audience.obey(line.decode().split()))


def main() -> int:
    uvloop.run(_serve(read_plan(AudiencePlan)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
