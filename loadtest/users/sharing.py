"""Locust's dispatcher replaced: every worker gets its share of every crowd, at once. gevent, by locust.

Locust deals out users one by one, worker after worker and class after class, so two crowds on two workers end as one
crowd each; and it starts them by the second, a whole second's users together. Here all users exist from the start, and
each comes at its own moment (`pacing.stays`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from locust.dispatch import UsersDispatcher

__all__ = ["EvenDispatcher", "share_of"]


def share_of(number: int, share: int, shares: int) -> int:
    """How many of `number` users the `share`-th of `shares` processes gets: share, share + shares, and so on."""
    return len(range(share, number, shares))


class EvenDispatcher(UsersDispatcher):
    """One round: everything. Workers that come later get nothing; those that go take their users with them."""

    def __init__(self, worker_nodes: list[Any], user_classes: list[Any]) -> None:
        super().__init__(worker_nodes=worker_nodes, user_classes=user_classes)
        self.order = [node.id for node in worker_nodes]
        """Workers' ids by their share."""
        self._counts = {each.__name__: each.fixed_count for each in user_classes}
        self._rounds: Iterator[dict[str, dict[str, int]]] = iter(())

    def new_dispatch(self, target_user_count: int, spawn_rate: float, user_classes: list[Any] | None = None) -> None:
        shares = len(self.order)
        self._rounds = iter(
            [
                {
                    worker: {name: share_of(number, share, shares) for name, number in self._counts.items()}
                    for share, worker in enumerate(self.order)
                }
            ]
        )

    def __next__(self) -> dict[str, dict[str, int]]:
        return next(self._rounds)

    def add_worker(self, worker_node: Any) -> None:
        """Nothing: the shares are dealt."""

    def remove_worker(self, worker_node: Any) -> None:
        """Nothing: the run will say that it does not count."""
