"""What every benchmark does around its measuring: say why it could not run or does not count, print, seal, judge."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from loadtest.bench.envelope import Envelope
from loadtest.bench.outcome import CouldNotRun, ExitCode
from loadtest.bench.report import Reporter

__all__ = ["Measured", "run_benchmark"]


class Measured(Protocol):
    """What a benchmark found."""

    def invalid_because(self) -> Sequence[str]:
        """Why the measurement does not count; empty: it does."""
        ...

    def tabulate(self, reporter: Reporter) -> None: ...

    def shortfalls(self) -> Sequence[str]:
        """What the promise is missed by; empty: it holds."""
        ...

    def keys(self) -> Mapping[str, Any]:
        """The benchmark's keys for JSON."""
        ...


def run_benchmark(
    measure: Callable[[Reporter], Coroutine[Any, Any, Measured]], *, seed: int | None, as_json: bool
) -> int:
    """Measure on a loop of its own, print, and return the exit code."""
    import uvloop

    reporter = Reporter(as_json=as_json)
    envelope = Envelope(seed=seed)
    try:
        measured = uvloop.run(measure(reporter))
    except CouldNotRun as exc:
        reporter.note(f"could not run: {exc}")
        return ExitCode.COULD_NOT_RUN
    for because in measured.invalid_because():
        envelope.invalid(because)
        reporter.note(f"not valid: {because}")
    measured.tabulate(reporter)
    shortfalls = measured.shortfalls()
    for line in shortfalls:
        reporter.note(f"falls short: {line}")
    reporter.emit(envelope.seal({**measured.keys(), "falls_short": shortfalls}))
    return ExitCode.HELD if not shortfalls and envelope.valid else ExitCode.FELL_SHORT
