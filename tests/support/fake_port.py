"""A push node's device port that keeps what it is given."""

from __future__ import annotations

from collections.abc import Sequence

from contract.frames import ServerFrame
from push_proxy.forms import Form, PreparedFrame, v1_form
from push_proxy.recovery import Subscription

__all__ = ["FakePort"]


class FakePort:
    """Compared by identity. `log` may be shared, to see in which order ports were written to."""

    def __init__(
        self,
        number: int = 0,
        log: list[tuple[int, bytes]] | None = None,
        *,
        form: Form = v1_form,
        congested: bool = False,
        breaks: bool = False,
    ) -> None:
        self.number = number
        self.log: list[tuple[int, bytes]] = [] if log is None else log
        self.form = form
        self.congested = congested
        self.breaks = breaks
        self.fd = -1
        self.spilled: list[bytes] = []
        self.subscriptions: tuple[Subscription, ...] = ()
        self.held_back: list[ServerFrame] = []
        self.refused: list[tuple[str, str, str]] = []

    def write(self, frame: bytes, /) -> None:
        if self.breaks:
            raise RuntimeError("socket gone")
        self.log.append((self.number, frame))

    def hold_back(self, frame: ServerFrame, /) -> None:
        self.held_back.append(frame)

    def spill(self, rest: bytes, /) -> None:
        self.spilled.append(rest)

    def send(self, frames: Sequence[PreparedFrame], /) -> None:
        for frame in frames:
            if self.congested:
                self.hold_back(frame.frame)
            else:
                self.write(frame.in_form(self.form))

    def unfollow(self, topic: str, code: str, message: str) -> None:
        self.refused.append((topic, code, message))
