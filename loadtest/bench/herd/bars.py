"""Progress of a long benchmark on standard error: a bar with the live rate, and what else is worth a glance."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["live_bar"]

_RATE_OVER_S = 3.0


@contextmanager
def live_bar(what: str, total: int, *, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yields a callback (done, total); shows the rate of the last seconds, and at the end how long all took."""
    screen = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    began_s = time.monotonic()
    seen: list[tuple[float, int]] = []
    done_last = 0
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(what, total=total, rate="")

        def tell(done: int, of: int) -> None:
            nonlocal done_last
            done_last, now_s = done, time.monotonic()
            seen.append((now_s, done))
            while len(seen) > 2 and now_s - seen[0][0] > _RATE_OVER_S:
                del seen[0]
            from_s, from_done = seen[0]
            span_s = now_s - from_s
            rate = f"{max(0, done - from_done) / span_s:,.0f}/s" if span_s > 0 else ""
            bar.update(task, completed=done, total=of, rate=rate)

        yield tell
    took_s = time.monotonic() - began_s
    screen.print(f"  {what}: {done_last:,} in {took_s:.1f} s", highlight=False)
