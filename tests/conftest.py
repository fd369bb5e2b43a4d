"""What a run left out is said at its end: tests that need real servers are chosen by marker, not skipped in silence."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

_MARKER = "external_service"
_LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEFT_OUT] = Counter()
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Workers(config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before any selection by marker: who would be left out by it."""
    if f"not {_MARKER}" in (config.option.markexpr or ""):
        config.stash[_LEFT_OUT][_MARKER] = sum(1 for item in items if item.get_closest_marker(_MARKER))


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(session.config.stash[_LEFT_OUT])


class _Workers:
    """Every xdist worker collects everything: what one left out is what all did."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_testnodedown(self, node: Any) -> None:
        self._config.stash[_LEFT_OUT].update(
            {
                marker: count - self._config.stash[_LEFT_OUT][marker]
                for marker, count in getattr(node, "workeroutput", {}).get("left_out", {}).items()
            }
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    count = config.stash[_LEFT_OUT][_MARKER]
    if not count:
        return
    from loadtest.cluster.requirements import missing_programs

    terminalreporter.write_line(
        f"left out: {count} tests that need Kafka, Redis or PostgreSQL ({_MARKER}); `make integration` runs them"
    )
    for line in missing_programs():
        terminalreporter.write_line(f"  for those, {line}")
