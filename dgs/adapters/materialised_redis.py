"""MaterialisedStore in Redis: a key per profile, read by one MGET, written in pipelines.

No command touches two keys of a topic in a way that needs one slot, so a cluster spreads a topic's profiles over all of
its servers.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from contract import names
from contract.kv.redis import Client, is_cluster, translated
from dgs.materialise.record import (
    decode_layout,
    decode_record,
    encode_layout,
    encode_record,
    layout_id,
    layout_of_record,
)
from dgs.picks import Layout, Picks

__all__ = ["RedisMaterialised"]

_AT_ONCE: Final = 500
"""Keys of one command or pipeline: no answer blocks the server for long."""
_SPREAD: Final = 0.1
"""Share of their time by which keys go earlier than others: a night's picks do not all expire in one second."""
_LAYOUTS_MAX: Final = 1_024


class RedisMaterialised:
    """Raises StoreUnavailable; cancel-safe, and everything may be repeated."""

    def __init__(
        self, client: Client, *, catalog: Callable[[], str], draw: Callable[[], float] = random.random
    ) -> None:
        """`catalog` tells the digest of the catalog in use; `draw` is uniform over [0, 1)."""
        self._client = client
        self._catalog = catalog
        self._draw = draw
        self._layouts: OrderedDict[bytes, Layout] = OrderedDict()

    async def read(self, topic: str, version: int, profiles: Sequence[str]) -> Mapping[str, Picks]:
        found: dict[str, Picks] = {}
        catalog = self._catalog()
        with translated("read materialised picks"):
            for part in _parts(profiles):
                records = await self._get([names.kv_picks(topic, version, profile_id) for profile_id in part])
                await self._learn(records)
                for profile_id, record in zip(part, records, strict=True):
                    picks = None if record is None else decode_record(record, profile_id, self._layouts.get)
                    if picks is not None and picks.layout.catalog == catalog:
                        found[profile_id] = picks
        return found

    async def write(self, topic: str, version: int, picks: Mapping[str, Picks], *, keep_s: int) -> None:
        keep_ms = keep_s * 1000
        with translated("write materialised picks"):
            # Layouts first: a record whose layout is not there is none.
            pipeline: Any = self._client.pipeline(transaction=False)
            for layout in {each.layout for each in picks.values()}:
                pipeline.set(names.kv_picks_layout(layout_id(layout)), encode_layout(layout), px=keep_ms)
            for part in _parts(tuple(picks)):
                for profile_id in part:
                    lives_ms = max(1, round(keep_ms * (1 - _SPREAD * self._draw())))
                    key = names.kv_picks(topic, version, profile_id)
                    pipeline.set(key, encode_record(profile_id, picks[profile_id]), px=lives_ms)
                await pipeline.execute()
                pipeline = self._client.pipeline(transaction=False)

    async def progress(self, job: str) -> frozenset[int]:
        with translated("read a job's progress"):
            return frozenset(int(chunk) for chunk in await cast("Any", self._client.smembers(_job(job))))

    async def done(self, job: str, chunk: int, *, keep_s: int) -> None:
        with translated("note a job's progress"):
            pipeline: Any = self._client.pipeline(transaction=False)
            pipeline.sadd(_job(job), chunk)
            pipeline.expire(_job(job), keep_s)
            await pipeline.execute()

    async def forget(self, job: str) -> None:
        """None of its chunks is done; what they wrote stays."""
        with translated("forget a job's progress"):
            await self._client.delete(_job(job))

    async def prune(self) -> int:
        """Redis removes what expired itself."""
        return 0

    async def aclose(self) -> None:
        """The client is its owner's to close."""

    async def _get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        if not keys:
            return ()
        if not is_cluster(self._client):
            return cast("Sequence[bytes | None]", await cast("Any", self._client.mget(keys)))
        pipeline: Any = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        return cast("Sequence[bytes | None]", await pipeline.execute())

    async def _learn(self, records: Sequence[bytes | None]) -> None:
        """The layouts of these records that are not known here yet, in one read; usually none."""
        named = {layout_of_record(record) for record in records if record is not None}
        unknown = [each for each in named if each is not None and each not in self._layouts]
        for of, body in zip(unknown, await self._get([names.kv_picks_layout(of) for of in unknown]), strict=True):
            layout = None if body is None else _layout(body)
            if layout is not None:
                self._layouts[of] = layout
        while len(self._layouts) > _LAYOUTS_MAX:
            self._layouts.popitem(last=False)


def _layout(body: bytes) -> Layout | None:
    """None for what cannot be read: damaged, or of a later release. Its records are then none."""
    try:
        return decode_layout(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _parts(profiles: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(profiles), _AT_ONCE):
        yield profiles[start : start + _AT_ONCE]


def _job(job: str) -> str:
    return names.kv_materialise_job(job)
