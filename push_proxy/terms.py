"""The terms of a node's connections: what each is granted, when it may be sent away, and when it should be back.

The rules are pure modules (`lifetimes`, `renewal`, `reconnect_window`, `due_times`); here they meet the clock, chance,
the key ring and what the node knows of itself. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from contract.clock import Clock
from contract.frames import GoawayFrame, WindowFrame
from contract.tokens import DeviceClaims, KeyRing
from push_proxy.due_times import NOTHING_DUE, DueTimes, StageGuards
from push_proxy.lifetimes import deferred_end_ms, draw_lifetime_s
from push_proxy.reconnect_window import Returns
from push_proxy.renewal import close_at_ms, draw_life_s
from push_proxy.session import Grant, Session, SessionTerms
from push_proxy.settings import PushSettings
from push_proxy.siblings import Siblings

__all__ = ["MAX_TOPIC_SETS", "Terms"]

MAX_TOPIC_SETS: Final = 1_024
"""Sets of topics kept to be shared; tokens that name others have one of their own."""

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS


class Terms:
    """One per node. `sessions` tells how many it serves now."""

    def __init__(
        self,
        settings: PushSettings,
        *,
        device_ring: KeyRing,
        clock: Clock,
        random: Random,
        siblings: Siblings,
        sessions: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._ring = device_ring
        self._clock = clock
        self._draw = random.random
        self._siblings = siblings
        self._sessions = sessions
        self._returns = Returns(
            settings.window_rule(), accept_per_s=settings.handshakes_per_s, now_s=clock.monotonic_s()
        )
        self._topic_sets: dict[tuple[str, ...], frozenset[str]] = {}
        self._due: DueTimes = NOTHING_DUE
        self._guards: StageGuards = self._guard(NOTHING_DUE)
        self._common = self._session_terms()

    # Tokens.

    def verify(self, token: str) -> Grant:
        """A token's grant; raises Unauthorized. One that expired within the grace is good: it is renewed at once."""
        now_ms = self._clock.now_ms()
        claims, _ = self._ring.verify_device_within(token, now_s=now_ms / 1000, grace_s=self._settings.grace_s)
        expires_at_s = self._clock.monotonic_s() + claims.exp - now_ms / 1000
        topics = claims.topics
        return Grant.of(claims.sub, claims.dev, expires_at_s, None if topics is None else self._shared(topics))

    def _shared(self, topics: tuple[str, ...]) -> frozenset[str]:
        """One set for all devices that may follow the same topics: those of an event, or of tonight's."""
        known = self._topic_sets.get(topics)
        if known is None:
            if len(self._topic_sets) >= MAX_TOPIC_SETS:
                self._topic_sets.clear()
            known = self._topic_sets[topics] = frozenset(topics)
        return known

    def renew(self, grant: Grant) -> tuple[str, float]:
        """A token of the same grant with a new, jittered end, and that end on the monotonic clock."""
        now_s = self._clock.monotonic_s()
        life_s = draw_life_s(
            self._draw(), life_s=self._settings.token_lifetime_s, left_s=max(0.0, grant.expires_at_s - now_s)
        )
        exp = int(self._clock.now_ms() / 1000 + life_s)
        topics = tuple(sorted(grant.topics)) if grant.topics is not None else None
        token = self._ring.sign(DeviceClaims(sub=grant.subject, dev=grant.device, exp=exp, topics=topics))
        return token, now_s + life_s

    # Sessions.

    def open_session(self, grant: Grant, now_s: float) -> Session:
        settings, draw = self._settings, self._draw
        lifetime_s = draw_lifetime_s(draw(), min_s=settings.lifetime_min_s, max_s=settings.lifetime_max_s)
        first_ping_s = settings.ping_s * draw()
        return Session(grant, self._common, now_s=now_s, lifetime_s=lifetime_s, first_ping_s=first_ping_s, draw=draw())

    def put_off(self, session: Session, now_s: float) -> None:
        """If this session is about to be ended although a stage is too near, let it live on until that has passed."""
        if now_s < session.departs_at_s:
            return
        now_ms = self._clock.now_ms()
        if now_s >= session.lifetime_end_s:
            settings = self._settings
            end_ms = deferred_end_ms(
                now_ms, self._guards, draw=self._draw(), max_s=settings.lifetime_max_s - settings.lifetime_min_s
            )
            if end_ms is not None:
                session.lifetime_end_s = now_s + (end_ms - now_ms) / 1000
        if now_s >= session.expiry_close_s:
            expires_at_ms = now_ms + int(1000 * (session.grant.expires_at_s - now_s))
            at_ms = close_at_ms(
                expires_at_ms,
                int(1000 * session.expiry_late_s),
                self._guards,
                defer_max_ms=int(1000 * self._settings.stage_guard_longest_s),
            )
            if at_ms > now_ms:
                session.expiry_close_s = now_s + (at_ms - now_ms) / 1000

    # Coming back.

    def goaway(self, why: str) -> GoawayFrame:
        """Sends one device away, with its own moment to be back (R21)."""
        now_ms = self._clock.now_ms()
        away = self._returns.away(
            self._sessions(),
            now_s=self._clock.monotonic_s(),
            now_ms=now_ms,
            next_due_ms=self._due.next_after(now_ms),
            draw=self._draw(),
            sibling_has_room=why == "full" and self._siblings.room(),
        )
        return GoawayFrame(reason=why, reconnect_after_ms=away.reconnect_after_ms, window_ms=away.window_ms)

    def retry_after_s(self, why: str) -> int:
        """The same for whoever reads only HTTP: whole seconds, rounded up."""
        return max(1, -(-self.goaway(why).reconnect_after_ms // 1000))

    @property
    def reconnect_window_ms(self) -> int:
        """What every device of this node was told."""
        return self._returns.window_ms

    @property
    def due(self) -> DueTimes:
        return self._due

    def know_due(self, times: list[int]) -> None:
        """When stages of the topics followed here are due, in ms since the epoch."""
        now_ms = self._clock.now_ms()
        self._due = DueTimes(times, since_ms=now_ms - _HOUR_MS, until_ms=now_ms + _DAY_MS)
        self._guards = self._guard(self._due)

    def window_to_tell(self) -> WindowFrame | None:
        """A `window` frame for everybody if the reconnect window should now be another one; ask about once a second."""
        if not self._returns.changed(self._sessions(), self._clock.monotonic_s()):
            return None
        self._common = self._session_terms()
        return WindowFrame(
            reconnect_window_ms=self._returns.window_ms, refetch_window_ms=self._settings.refetch_window_ms
        )

    def _guard(self, due: DueTimes) -> StageGuards:
        guard_ms = int(1000 * self._settings.stage_guard_s)
        longest_ms = int(1000 * self._settings.stage_guard_longest_s)
        # Whoever is sent away is gone for up to a window: it should be back before the guard begins.
        return due.guards(before_ms=guard_ms + self._returns.window_ms, after_ms=guard_ms, longest_ms=longest_ms)

    def _session_terms(self) -> SessionTerms:
        settings = self._settings
        return SessionTerms(
            ping_s=settings.ping_s,
            pong_deadline_s=settings.pong_deadline_s,
            subscribe_deadline_s=settings.subscribe_deadline_s,
            reconnect_window_ms=self._returns.window_ms,
            refetch_window_ms=settings.refetch_window_ms,
            max_errors=settings.max_errors,
            renew_before_s=settings.token_renew_before_s,
            expiry_spread_s=settings.token_expiry_spread_s,
        )
