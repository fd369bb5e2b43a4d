"""A night on a real node and a real DGS, hours pressed into seconds: tokens run out in the middle of the event.

The event is put off after the devices got their tokens, so that these end while it is on. What is counted is every
request that reaches the DGS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import websockets
from push_world import TOPIC, World, broadcast

from contract.clock import ManualClock
from contract.schedule import PlannedStage, TopicSchedule
from contract.tokens import Hs256Key, KeyRing, LiveKeyRing, new_key_ring
from dgs.app import build_dgs
from dgs.settings import DgsSettings
from push_proxy.adapters.device_listener import TICK_S

pytestmark = pytest.mark.timeout(120)

PATIENCE_S = 30.0
MINUTE_MS = 60_000
STEADY, AWAY = 6, 4
CHANNEL = """
query Channel($profile: ID!) {
  broadcastChannel(eventIds: ["fight"], profileId: $profile, device: {kind: TV}) { token topics { topic } }
}
"""


def planned(starts_at: int, *, revision: int) -> TopicSchedule:
    offsets = {"live": 0, "second_half": 60 * MINUTE_MS, "ended": 120 * MINUTE_MS}
    return TopicSchedule(
        topic=TOPIC,
        event_id="fight",
        title="Fight",
        revision=revision,
        version=1,
        starts_at=starts_at,
        ends_at=starts_at + 120 * MINUTE_MS,
        stages=tuple(
            PlannedStage(key=key, order=order, due_at=starts_at + offset)
            for order, (key, offset) in enumerate(offsets.items())
        ),
    )


class Viewer:
    """A device as its maker would write it: keeps the newest token, asks the DGS only when that is refused."""

    def __init__(self, night: Night, number: int) -> None:
        self.night = night
        self.profile = f"p-{number}"
        self.token = ""
        self.tokens: list[str] = []
        self.cursor: int | None = None
        self.applied: list[str] = []
        self.verdicts: list[str] = []
        self.closed_with: list[int | None] = []
        self._connection: websockets.ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def online(self) -> bool:
        return self._connection is not None

    async def connect(self) -> None:
        """Online and subscribed; with another token from the DGS if this one is refused."""
        self.token = self.token or await self.night.ask_dgs(self.profile)
        try:
            await self._open()
        except websockets.InvalidStatus as refused:
            if refused.response.status_code != 401:
                raise
            self.token = await self.night.ask_dgs(self.profile)
            await self._open()

    async def _open(self) -> None:
        device = await self.night.world.connect(token=self.token)
        self._connection = device.connection
        await device.subscribe(self.cursor)
        self._task = asyncio.create_task(self._read(device), name=f"test.viewer.{self.profile}")

    async def _read(self, device: Any) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                frame = await device.next(timeout=600)
                if frame["type"] == "token":
                    self.token = frame["token"]
                    self.tokens.append(self.token)
                elif frame["type"] == "continuity":
                    self.verdicts.append(frame["verdict"])
                    if self.cursor is None:
                        self.cursor = frame["latest"]
                elif frame["type"] == "broadcast" and frame["timestamp"] > (self.cursor or 0):
                    self.cursor = frame["timestamp"]
                    self.applied.append(frame["state_key"])
        self.closed_with.append(device.connection.close_code)
        self._connection = None

    async def leave(self) -> None:
        """Its network is gone, its token is not."""
        assert self._connection is not None
        assert self._task is not None
        await self._connection.close()
        await self._task


class Night:
    """The node, the DGS, and a clock that moves when told to; minutes count from the event's first planned start."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.starts_at = self.clock.now_ms() + 120 * MINUTE_MS
        self.ring = LiveKeyRing.of(new_key_ring("stagecue.device"))
        # Only tokens may end anything here: whatever else is judged by this clock would fall silent at each jump.
        quiet = dict.fromkeys(("ping_s", "lifetime_min_s", "lifetime_max_s", "link_silence_s", "lease_s"), 1e6)
        self.world = World(clock=self.clock, ring=self.ring, **(quiet | {"drain_guard_s": 0} | settings))
        self.dgs = build_dgs(
            DgsSettings(),
            schedule_view=self.world.view,
            replay_log=self.world.log,
            device_ring=self.ring,
            clock=self.clock,
            readiness=self.world.readiness,
            draw=lambda: 0.5,
        )
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.dgs), base_url="http://dgs")
        self.asked_at_min: list[float] = []
        self._newest = 0

    @property
    def minute(self) -> float:
        return (self.clock.now_ms() - self.starts_at) / MINUTE_MS

    async def ask_dgs(self, profile: str) -> str:
        self.asked_at_min.append(self.minute)
        answer = await self.http.post("/graphql", json={"query": CHANNEL, "variables": {"profile": profile}})
        channel = answer.json()["data"]["broadcastChannel"]
        assert [topic["topic"] for topic in channel["topics"]] == [TOPIC]
        return str(channel["token"])

    async def until(self, minute: float, *, steps_min: float = 30.0) -> None:
        """Let time pass in steps; the node looks at its deadlines after each."""
        while self.minute < minute:
            self.clock.advance_ms(int(min(steps_min, minute - self.minute) * MINUTE_MS))
            await asyncio.sleep(2.5 * TICK_S)

    async def plan(self, starts_at: int, *, revision: int) -> None:
        """The schedule, in the store and told to the node."""
        schedule = planned(starts_at, revision=revision)
        await self.world.view.put(schedule)
        await self.world.routers[0].deliver(schedules=[schedule])

    async def announce(self, state_key: str) -> None:
        sent = broadcast(self.clock.now_ms(), self._newest, state_key)
        self._newest = sent.timestamp
        await self.world.publish(sent)
        await self.world.routers[0].deliver(sent)

    def expiry_min(self, token: str) -> float:
        claims = self.ring.verify_device(token, now_s=0)
        return (claims.exp * 1000 - self.starts_at) / MINUTE_MS


async def sure(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - whatever is asked has no event to wait for
            await asyncio.sleep(0.02)


@pytest.fixture
async def night(request: pytest.FixtureRequest) -> AsyncIterator[Night]:
    made = Night(**getattr(request, "param", {}))
    await made.world.start()
    made.world.router()
    async with made.http:
        yield made
    await made.world.end()


async def test_tokens_that_run_out_during_the_event_send_nobody_to_the_dgs(night: Night) -> None:
    """Renewed in-band while connected; let in within the grace and renewed at once when back. A key rotates meanwhile.

    Then the measure is shown to work: whoever stays away longer than the grace does ask.
    """
    await night.plan(night.starts_at, revision=2)
    viewers = [Viewer(night, number) for number in range(STEADY + AWAY)]
    steady, away = viewers[:STEADY], viewers[STEADY:]
    await night.until(-90)
    for viewer in viewers:
        await viewer.connect()
    assert len(night.asked_at_min) == len(viewers), "one request each, for the token they begin with"
    ends_min = night.expiry_min(viewers[0].token)
    assert 180 < ends_min < 240, "a token outlives the event that was planned"
    first = {viewer.profile: viewer.token for viewer in viewers}

    # The event is put off by three and a half hours: now every token ends in its middle.
    await night.until(-30)
    delay_min = 210
    await night.plan(night.starts_at + delay_min * MINUTE_MS, revision=3)
    begins_min = delay_min
    assert begins_min - 60 < ends_min < begins_min + 120 + 60

    await night.until(ends_min - 45)
    for viewer in away:
        await viewer.leave()
    assert not any(viewer.tokens for viewer in viewers), "it was early for renewals"

    # Renewals begin with the old key and go on with the new one.
    await night.until(ends_min - 16, steps_min=5)
    old_kid = night.ring.signing_kid
    night.ring.adopt(
        KeyRing("stagecue.device", {**night.ring._keys, "k2": Hs256Key(b"another secret of this ring, 32.")}, "k2")
    )
    await night.until(ends_min - 1, steps_min=5)
    await sure(lambda: all(viewer.tokens for viewer in steady))
    await night.until(ends_min + 30)
    assert all(viewer.online for viewer in steady)
    assert night.ring.signing_kid != old_kid

    await night.until(begins_min)
    await night.announce("live")
    await night.until(begins_min + 60)
    await night.announce("second_half")
    await sure(lambda: all(viewer.applied == ["live", "second_half"] for viewer in steady))

    # Those who were away come back with tokens that ended an hour ago and more.
    assert night.minute > ends_min + 30
    for viewer in away:
        assert viewer.token == first[viewer.profile]
        await viewer.connect()
    await night.until(night.minute + 1)
    await sure(lambda: all(viewer.tokens for viewer in away))
    await sure(lambda: all(viewer.verdicts[-1] == "complete" for viewer in away))

    # And everybody reconnects once more, with the token it was given.
    for viewer in viewers:
        assert viewer.token != first[viewer.profile]
        assert night.expiry_min(viewer.token) > begins_min + 120 + 60, "good until an hour after the event, and longer"
        await viewer.leave()
        await viewer.connect()
    await night.until(begins_min + 120)
    await night.announce("ended")
    await sure(lambda: all(viewer.applied[-1] == "ended" for viewer in viewers))
    await night.until(begins_min + 120 + 60)
    assert all(viewer.online for viewer in viewers)
    assert [code for viewer in viewers for code in viewer.closed_with if code != 1000] == [], "none was sent away"
    during = [minute for minute in night.asked_at_min if minute >= begins_min - 60]
    assert during == [], "no request to the DGS from an hour before to an hour after"

    # The first token of the night, beyond its grace: refused, and the DGS gives another.
    grace_min = night.world.settings.token_grace_s / 60
    await night.until(ends_min + grace_min + 1)
    late = Viewer(night, 99)
    late.token = first["p-0"]
    await late.connect()
    assert len(night.asked_at_min) == len(viewers) + 1
    assert late.token != first["p-0"]


@pytest.mark.parametrize("night", [{"token_grace_s": 0}], indirect=True)
async def test_without_a_grace_who_was_away_would_ask(night: Night) -> None:
    """What is counted above can be otherwise: the same absence costs a request where there is no grace."""
    await night.plan(night.starts_at, revision=2)
    viewer = Viewer(night, 1)
    await viewer.connect()
    await viewer.leave()
    await night.until(night.expiry_min(viewer.token) + 10)
    await viewer.connect()
    assert len(night.asked_at_min) == 2


async def test_a_key_retired_in_the_middle_ends_grace_and_renewal_for_what_it_signed(night: Night) -> None:
    """A stolen key: its tokens are refused at once, also within the grace; open sessions get tokens of the new one."""
    await night.plan(night.starts_at, revision=2)
    inside, outside = Viewer(night, 1), Viewer(night, 2)
    await inside.connect()
    await outside.connect()
    await outside.leave()
    ends_min = night.expiry_min(inside.token)
    night.ring.adopt(KeyRing("stagecue.device", {"k2": b"another secret of this ring, 32."}, "k2"))
    await night.until(ends_min - 45)
    await night.until(ends_min - 1, steps_min=5)
    await sure(lambda: bool(inside.tokens))
    assert inside.online
    await inside.leave()
    await inside.connect()
    assert len(night.asked_at_min) == 2, "renewed with the new key, it needs nobody"
    await outside.connect()
    assert len(night.asked_at_min) == 3, "its token was signed with the stolen key"
