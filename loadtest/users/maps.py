"""A user's asks for stage maps: with the tag of the one it holds, and where that one said. gevent.

As devices do (device_sim/prefetch.py, docs/sharding.md): a map is refreshed where its answer said, else where the user
asked first; after a refresh that failed where it was told to go, the next one asks where the user asked first.
"""

from __future__ import annotations

from collections.abc import Mapping

from device_sim.stage_map import StageMap
from loadtest.users.asker import Asker
from loadtest.users.asking import NotAnAnswer, map_ask, map_of
from loadtest.users.plan import Crowd
from loadtest.users.world import World, wall_ms

__all__ = ["Maps"]


class Maps:
    """Of one greenlet, over its asker."""

    def __init__(self, world: World, crowd: Crowd, asker: Asker, *, profile_id: str, kind: Mapping[str, str]) -> None:
        self._world = world
        self._crowd = crowd
        self._asker = asker
        self._profile_id = profile_id
        self._kind = kind
        self._astray: set[str] = set()
        """Events whose last refresh failed where it was told to go."""

    def ask(
        self, request: str, event_id: str, *, held: StageMap | None, due_s: float, told_version: int = 0
    ) -> StageMap | None:
        """The event's map: the one `held` with a new lifetime where nothing changed; None: given up, or no answer."""
        told_url = self._told_url(event_id, held)
        if told_url:
            # Until it answers: a failure leads back.
            self._astray.add(event_id)
        asked = map_ask(event_id, self._profile_id, self._kind, held=held, told_version=told_version)
        heard = self._asker.ask(request, asked, due_s=due_s, at=told_url)
        if heard is None:
            return None
        try:
            found = map_of(heard, held, server_time_ms=wall_ms())
        except NotAnAnswer as exc:
            self._world.book.reason(f"{self._crowd.name}/{request}", str(exc))
            return None
        self._astray.discard(event_id)
        return found

    def _told_url(self, event_id: str, held: StageMap | None) -> str:
        if held is None or not held.refresh_url or event_id in self._astray:
            return ""
        return held.refresh_url if self._world.may_go(self._crowd, held.refresh_url) else ""
