"""A night with tokens, time compressed: no token sends a device to the DGS from an hour before to an hour after.

Production's terms, sessions and key ring under a clock that jumps from deadline to deadline. Every device's first token
runs out in those hours, networks break, and devices stay away for up to five hours. A device whose token is refused
asks the DGS for another, which is what is counted.
"""

from __future__ import annotations

from collections import Counter
from heapq import heapify, heappop, heappush
from random import Random
from typing import Any, Final

import pytest

from contract.clock import ManualClock
from contract.close_codes import CloseCode
from contract.errors import Unauthorized
from contract.frames import SubscribeFrame, encode_frame
from contract.tokens import DeviceClaims, new_key_ring
from push_proxy.session import Close, Ping, RenewToken, Session
from push_proxy.settings import PushSettings
from push_proxy.siblings import NO_SIBLINGS
from push_proxy.terms import Terms

HOUR_S: Final = 3600.0
BEGINS_S: Final = 2 * HOUR_S
ENDS_S: Final = BEGINS_S + 3 * HOUR_S
WATCHED: Final = (BEGINS_S - HOUR_S, ENDS_S + HOUR_S)
STAGES_S: Final = (BEGINS_S - 900, BEGINS_S, BEGINS_S + 5400, ENDS_S, ENDS_S + 600)
TOPIC: Final = "event:final"


class Device:
    def __init__(self, number: int, token: str) -> None:
        self.number = number
        self.token = token
        self.session: Session | None = None
        self.breaks_at_s = 0.0


class Night:
    """Simulated seconds count from the night's begin, two hours before the event."""

    def __init__(self, devices: int, *, seed: int, same_expiry: bool = False, **settings: Any) -> None:
        self.random = Random(seed)
        self.clock = ManualClock()
        self.begun_ms = self.clock.now_ms()
        self.ring = new_key_ring("stagecue.device")
        self.settings = PushSettings(ping_s=6 * HOUR_S, **settings)
        self.connected = 0
        self.terms = Terms(
            self.settings,
            device_ring=self.ring,
            clock=self.clock,
            random=self.random,
            siblings=NO_SIBLINGS,
            sessions=lambda: self.connected,
        )
        self.terms.know_due([self.begun_ms + int(1000 * at_s) for at_s in STAGES_S])
        self.asked_dgs_at_s: list[float] = []
        self.renewed_at_s: list[float] = []
        self.closes: list[tuple[float, CloseCode]] = []
        self._events: list[tuple[float, int]] = []
        self._devices: list[Device] = []
        low_s, high_s = WATCHED
        for number in range(devices):
            ends_s = BEGINS_S if same_expiry else low_s + (high_s - low_s) * self.random.random()
            self._devices.append(Device(number, self._issue(number, ends_s)))
            self._events.append((10 * self.random.random(), number))
        heapify(self._events)

    @property
    def now_s(self) -> float:
        return self.clock.monotonic_s()

    def run(self, until_s: float) -> None:
        while self._events and self._events[0][0] <= until_s:
            at_s, number = heappop(self._events)
            self.clock.advance_ms(max(0, round(1000 * (at_s - self.now_s))))
            device = self._devices[number]
            next_s = self._connect(device) if device.session is None else self._on_time(device, device.session)
            heappush(self._events, (max(next_s, self.now_s + 0.001), number))

    def _issue(self, number: int, ends_s: float) -> str:
        exp = int(self.begun_ms / 1000 + ends_s)
        return self.ring.sign(DeviceClaims(sub=f"p{number}", dev=f"d{number}", exp=exp, topics=(TOPIC,)))

    def _connect(self, device: Device) -> float:
        try:
            grant = self.terms.verify(device.token)
        except Unauthorized:
            self.asked_dgs_at_s.append(self.now_s)
            device.token = self._issue(device.number, ENDS_S + HOUR_S + HOUR_S * self.random.random())
            grant = self.terms.verify(device.token)
        device.session = session = self.terms.open_session(grant, self.now_s)
        subscribe = encode_frame(SubscribeFrame(topics={TOPIC: None}))
        session.received(
            subscribe, now_ms=self.clock.now_ms(), latest_of=lambda topic: 0, verify=self.terms.verify, **self._now()
        )
        self.connected += 1
        device.breaks_at_s = self.now_s + self.random.expovariate(1 / 2400)
        return min(session.next_deadline_s(), device.breaks_at_s)

    def _now(self) -> dict[str, float]:
        return {"now_s": self.now_s}

    def _on_time(self, device: Device, session: Session) -> float:
        """A deadline of the session, or its network breaks; returns when this device has something to do again."""
        if self.now_s >= device.breaks_at_s:
            self._gone(device)
            return self.now_s + min(5 * HOUR_S, self.random.expovariate(1 / 1800))
        self.terms.put_off(session, self.now_s)
        for action in session.on_time(self.now_s):
            if isinstance(action, RenewToken):
                device.token, expires_at_s = self.terms.renew(action.grant)
                session.renewed(expires_at_s)
                self.renewed_at_s.append(self.now_s)
            elif isinstance(action, Ping):
                session.pong(self.now_s)
            else:
                assert isinstance(action, Close)
                self.closes.append((self.now_s, action.code))
                self._gone(device)
                return self.now_s + self.terms.goaway("lifetime").reconnect_after_ms / 1000
        return min(session.next_deadline_s(), device.breaks_at_s)

    def _gone(self, device: Device) -> None:
        device.session = None
        self.connected -= 1

    def dgs_requests(self) -> int:
        low_s, high_s = WATCHED
        return sum(low_s <= at_s <= high_s for at_s in self.asked_dgs_at_s)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_device_needs_the_dgs_for_its_token(seed: int) -> None:
    """Renewed in-band while connected, let in and renewed when back: nobody is sent away for another token."""
    night = Night(1500, seed=seed)
    night.run(WATCHED[1])
    assert night.asked_dgs_at_s == []
    assert len(night.renewed_at_s) >= 1500 * 0.95
    codes = {code for _, code in night.closes}
    assert codes == {CloseCode.LIFETIME}


def test_sessions_end_clear_of_every_stage() -> None:
    """Whatever ends them; and they do end."""
    night = Night(1500, seed=3)
    night.run(WATCHED[1])
    guard_s = night.settings.stage_guard_s
    near = [at_s for at_s, _ in night.closes if any(abs(at_s - stage_s) < guard_s for stage_s in STAGES_S)]
    assert near == []
    assert len(night.closes) > 1500


def test_tokens_of_one_expiry_are_renewed_apart() -> None:
    """Issued for one event with one end: spread over most of the renewal window, never in its last fifth."""
    night = Night(1500, seed=4, same_expiry=True)
    night.run(BEGINS_S)
    before_s = night.settings.token_renew_before_s
    in_window = [at_s for at_s in night.renewed_at_s if at_s >= BEGINS_S - before_s]
    assert len(in_window) > 700
    per_minute = Counter(int(at_s // 60) for at_s in in_window)
    assert max(per_minute.values()) < 2.0 * len(in_window) / (0.8 * before_s / 60)
    assert night.asked_dgs_at_s == []


def test_without_renewal_they_would_ask() -> None:
    """The measure can fail: the same night without renewal sends every device to the DGS, in those very hours."""
    night = Night(500, seed=1, token_renew_before_s=0)
    night.run(WATCHED[1])
    assert night.dgs_requests() > 450


def test_without_grace_those_who_were_away_would_ask() -> None:
    """Renewal alone is not enough: a token runs out while its device is away."""
    night = Night(1500, seed=1, token_grace_s=0)
    night.run(WATCHED[1])
    assert 20 < night.dgs_requests() < 1500


def test_closes_for_want_of_renewal_are_spread_and_clear_of_stages() -> None:
    """Tokens that end as the event begins, and nothing renews them: closed over a minute, once the stage has passed."""
    night = Night(800, seed=5, same_expiry=True, token_renew_before_s=0)
    night.run(BEGINS_S + 1800)
    closed = [at_s for at_s, code in night.closes if code is CloseCode.TOKEN_EXPIRED_RENEWABLE]
    guard_s, spread_s = night.settings.stage_guard_s, night.settings.token_expiry_spread_s
    assert len(closed) > 300
    assert min(closed) > BEGINS_S + guard_s
    assert max(closed) < BEGINS_S + guard_s + spread_s + 1
    per_second = Counter(int(at_s) for at_s in closed)
    assert max(per_second.values()) < 4 * len(closed) / spread_s
