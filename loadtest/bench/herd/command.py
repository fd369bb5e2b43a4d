"""`stagecue bench herd`: one size after the other, printed, judged and reported."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from loadtest.bench.envelope import Envelope
from loadtest.bench.herd.findings import HerdFindings, Network
from loadtest.bench.herd.interruption import Interruption
from loadtest.bench.herd.layout import HerdLayout, NodeRules, herd_layout
from loadtest.bench.herd.night import spend_night
from loadtest.bench.herd.options import HerdLimits, HerdOptions
from loadtest.bench.herd.record import herd_record
from loadtest.bench.herd.watching import Watching
from loadtest.bench.outcome import CouldNotRun, ExitCode
from loadtest.bench.push.defaults import production
from loadtest.bench.report import Reporter
from loadtest.cluster.requirements import require
from loadtest.machine import MachineFacts, fit, read_machine
from loadtest.machine.kernel_settings import kernel_settings
from loadtest.machine.own_network import own_network, table_rows, wanted_rows
from loadtest.report.files import write_report

__all__ = ["run_herd"]

_LEFT_SHARE: Final = 0.12
"""Of the machine's memory that must stay available: less, and the kernel would choose whom to end."""
_GROWTH: Final = (
    ("connect_s", "connected in s"),
    ("last_s", "last device s"),
    ("us_per_delivery", "server us per delivery"),
    ("client_us_per_delivery", "client us per delivery"),
    ("server_us_per_connect", "server us per connect"),
    ("client_us_per_connect", "client us per connect"),
    ("server_bytes_per_device", "server bytes"),
    ("client_bytes_per_device", "client bytes"),
    ("kernel_bytes_per_device", "kernel bytes"),
    ("missed", "missed"),
)
"""Key and heading of the table over sizes."""


def run_herd(options: HerdOptions, *, as_json: bool = False) -> int:
    """Check the machine, measure every size, print, report, and return the exit code."""
    reporter = Reporter(as_json=as_json)
    try:
        options.check()
        with ExitStack() as stack:
            layouts = _layouts(options, reporter, stack)
            network = _network(options, max(layout.devices for layout in layouts), reporter, stack)
            return _Sizes(options, reporter, network).run(layouts)
    except CouldNotRun as exc:
        reporter.note(f"could not run: {exc}")
        return ExitCode.COULD_NOT_RUN


class _Sizes:
    def __init__(self, options: HerdOptions, reporter: Reporter, network: Network) -> None:
        self._options = options
        self._reporter = reporter
        self._network = network
        self._sealed: list[dict[str, Any]] = []
        self._held = True

    def run(self, layouts: Sequence[HerdLayout]) -> int:
        for layout in layouts:
            if not self._one(layout, is_last=layout is layouts[-1]):
                break
        if len(self._sealed) > 1:
            rows = [[each["devices"], *(each[key] for key, _ in _GROWTH)] for each in self._sealed]
            headings = ("devices", *(heading for _, heading in _GROWTH))
            self._reporter.table("How cost per device grows", headings, rows)
        sizes = {"sizes": self._sealed} if len(self._sealed) > 1 else {}
        self._reporter.emit({**self._sealed[-1], **sizes})
        return ExitCode.HELD if self._held else ExitCode.FELL_SHORT

    def _one(self, layout: HerdLayout, *, is_last: bool) -> bool:
        """Measure one size; whether to go on with the next. Raises CouldNotRun."""
        import uvloop

        options, reporter = self._options, self._reporter
        reporter.note(
            f"herd of {layout.devices:,} devices: {layout.nodes} push nodes, {len(layout.fleets)} client processes"
        )
        envelope = Envelope(seed=options.seed)
        found = HerdFindings(devices=layout.devices, layout=layout, limits=HerdLimits(), network=self._network)
        watching = Watching(layout.devices)
        with tempfile.TemporaryDirectory(prefix="stagecue-herd-", ignore_cleanup_errors=True) as temporary:
            directory = _fresh(options.keep or Path(temporary), str(layout.devices))
            uvloop.run(self._night(found, directory, watching))
        for because in found.invalid_because():
            envelope.invalid(because)
            reporter.note(f"not valid: {because}")
        found.tabulate(reporter)
        short = found.shortfalls()
        for line in short:
            reporter.note(f"falls short: {line}")
        self._held = self._held and not short and envelope.valid
        sealed = envelope.seal({**found.keys(), "falls_short": short, "notes": found.notes()})
        sealed["report"] = str(self._report(found, watching, sealed, is_last=is_last))
        reporter.note(f"report: {sealed['report']}")
        self._sealed.append(sealed)
        return found.interrupted is None

    async def _night(self, found: HerdFindings, directory: Path, watching: Watching) -> None:
        least = int(_LEFT_SHARE * read_machine().memory_bytes)
        interruption = Interruption(available_least_bytes=least)
        try:
            await spend_night(self._options, found, self._reporter, directory, interruption, watching)
        finally:
            interruption.end()
        if found.interrupted is not None:
            self._reporter.note(f"partial: {found.interrupted}")

    def _report(self, found: HerdFindings, watching: Watching, sealed: dict[str, Any], *, is_last: bool) -> Path:
        directory = self._options.report if is_last or found.interrupted else self._options.report / str(found.devices)
        names = ("machine", "versions", "commit", "seed", "started_at", "wall_s", "valid", "invalid_because")
        envelope = {name: sealed[name] for name in names if name in sealed}
        record = herd_record(found, watching, envelope=envelope, directory=directory)
        return write_report(record, directory)


def _fresh(parent: Path, name: str) -> Path:
    """A folder of that name, or of that name and a number: what another run kept is not run into."""
    for number in itertools.count(1):
        directory = parent / (name if number == 1 else f"{name}-{number}")
        if not directory.exists():
            directory.mkdir(parents=True)
            return directory
    raise AssertionError("numbers do not end")


def _layouts(options: HerdOptions, reporter: Reporter, stack: ExitStack) -> list[HerdLayout]:
    """Of all sizes, each of which fits this machine. Raises CouldNotRun with what to set, before anything starts."""
    facts = read_machine()
    layouts = [_layout(options, devices, facts) for devices in options.sizes]
    for layout in layouts:
        found = fit(facts, layout.devices, layout.shape)
        if found.held:
            continue
        if not options.set_kernel or any(need.sysctl is None for need in found.needs if not need.held):
            raise CouldNotRun("\n".join(found.lines()))
        try:
            stack.enter_context(kernel_settings(found.sysctls))
        except OSError as exc:
            raise CouldNotRun(f"cannot set {exc.filename}: {exc.strerror}\n" + "\n".join(found.lines())) from exc
        for setting in found.sysctls:
            reporter.note(f"set for this run: {setting}")
        facts = read_machine()
    return layouts


def _network(options: HerdOptions, devices: int, reporter: Reporter, stack: ExitStack) -> Network:
    """Go where the run finds its sockets quickly. Raises CouldNotRun where that was asked for and may not be."""
    rows, wanted = table_rows(), wanted_rows(devices)
    if options.own_network is False or (options.own_network is None and (rows is None or rows >= wanted)):
        return Network(rows=rows)
    # No way out from in there: what must be fetched is fetched now.
    asyncio.run(require())
    try:
        stack.enter_context(own_network(wanted))
    except OSError as exc:
        if options.own_network:
            raise CouldNotRun(f"--own-network: {exc.filename}: {exc.strerror}; it wants root, and Linux 6.1") from exc
        return Network(rows=rows)
    reporter.note(f"in a network of its own, with {wanted:,} rows in TCP's table instead of {rows or 0:,}")
    return Network(rows=table_rows(), own=True)


def _layout(options: HerdOptions, devices: int, facts: MachineFacts) -> HerdLayout:
    defaults = production()
    rules = NodeRules(
        max_connections=defaults.max_connections,
        ping_s=defaults.ping_s,
        pong_deadline_s=defaults.pong_deadline_s,
        handshakes_per_s=defaults.handshakes_per_s,
        accept_share=defaults.accept_share,
        reconnect_window_ms=defaults.reconnect_window_ms,
        lifetime_min_s=defaults.lifetime_min_s,
    )
    return herd_layout(
        devices,
        profiles=min(options.profiles, devices),
        files_per_process=facts.files_per_process,
        cores=facts.cores,
        rules=rules,
        ping_s=options.ping_s,
    )
