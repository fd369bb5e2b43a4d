"""Coverage as rows: a share per node and topic, and when each node was last heard from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from contract.coverage import TopicCoverage
from message_producer.adapters.sql_engine import Dialect
from message_producer.adapters.sql_schema import coverage, coverage_nodes
from message_producer.coverage import TopicHoldings

__all__ = ["SqlCoverageRows"]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[int, int]).decode
_newer = coverage_nodes.alias("newer")
_same_node = sa.and_(
    coverage_nodes.c.node_id == coverage.c.node_id, coverage_nodes.c.incarnation == coverage.c.incarnation
)
_replaced = sa.exists().where(
    _newer.c.node_id == coverage_nodes.c.node_id, _newer.c.begun_at > coverage_nodes.c.begun_at
)


class SqlCoverageRows:
    """See CoverageRows."""

    def __init__(self, connection: sa.Connection, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect

    def record(self, shares: Sequence[TopicCoverage], now: int) -> None:
        # Each table in one statement, for which every key may come but once, and in one order everywhere: two routers
        # that report the same node must not lock its rows crosswise.
        newest: dict[tuple[str, str, str], TopicCoverage] = {}
        for share in sorted(shares, key=lambda share: (share.topic, share.node_id, share.incarnation, share.seq)):
            newest[share.topic, share.node_id, share.incarnation] = share
        if not newest:
            return
        nodes = {(share.node_id, share.incarnation): share.begun_at for share in newest.values()}
        heard = self._dialect.insert(coverage_nodes).values(
            [
                {"node_id": node, "incarnation": incarnation, "begun_at": begun_at, "seen_at": now}
                for (node, incarnation), begun_at in sorted(nodes.items())
            ]
        )
        self._connection.execute(
            heard.on_conflict_do_update(
                index_elements=list(coverage_nodes.primary_key.columns),
                set_={"seen_at": heard.excluded.seen_at},
                where=heard.excluded.seen_at > coverage_nodes.c.seen_at,
            )
        )
        counted = self._dialect.insert(coverage).values(
            [
                {
                    "topic": share.topic,
                    "node_id": share.node_id,
                    "incarnation": share.incarnation,
                    "seq": share.seq,
                    "held": _encode(share.held).decode(),
                    "counted_at": now,
                }
                for share in newest.values()
            ]
        )
        new = counted.excluded
        self._connection.execute(
            counted.on_conflict_do_update(
                index_elements=list(coverage.primary_key.columns),
                set_={name: new[name] for name in ("seq", "held", "counted_at")},
                where=new.seq >= coverage.c.seq,
            )
        )

    def of_topics(self, topics: Sequence[str], since: int) -> Mapping[str, TopicHoldings]:
        select = (
            sa.select(coverage.c.topic, coverage.c.held)
            .join(coverage_nodes, _same_node)
            .where(self._dialect.among(coverage.c.topic, "topics"), coverage_nodes.c.seen_at >= since, ~_replaced)
        )
        nodes: dict[str, int] = {}
        held: dict[str, dict[int, int]] = {}
        for row in self._connection.execute(select, {"topics": self._dialect.values(topics)}):
            shares = _decode(row.held)
            nodes[row.topic] = nodes.get(row.topic, 0) + bool(shares)
            summed = held.setdefault(row.topic, {})
            for version, count in shares.items():
                summed[version] = summed.get(version, 0) + count
        return {topic: TopicHoldings(topic=topic, nodes=nodes[topic], held=held[topic]) for topic in held}

    def prune(self, before: int) -> None:
        lives = sa.exists().where(_same_node, coverage_nodes.c.seen_at >= before)
        self._connection.execute(
            sa.delete(coverage).where(
                coverage.c.counted_at < before, sa.or_(coverage.c.held == _encode({}).decode(), ~lives)
            )
        )
        self._connection.execute(sa.delete(coverage_nodes).where(coverage_nodes.c.seen_at < before))
