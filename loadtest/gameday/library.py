"""The scenarios that ship, and a person's own: found by name or path."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from loadtest.gameday.scenario import Scenario, ScenarioError, read_scenario
from loadtest.nearest import meant

__all__ = ["SHIPPED", "load_scenario", "read_text", "shipped_scenarios"]

SHIPPED: Final = Path(__file__).parent / "scenarios"
_BYTES_MAX: Final = 1 << 20


def shipped_scenarios() -> list[Scenario]:
    """In the order of their names."""
    return [_read(path) for path in sorted(SHIPPED.glob("*.toml")) if not path.stem.endswith("-projection")]


def load_scenario(name_or_path: str) -> Scenario:
    """A shipped one by its name, or a file by its path: what ends in `.toml` or has a `/`. Raises ScenarioError."""
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        return _read(Path(name_or_path))
    shipped = {path.stem: path for path in SHIPPED.glob("*.toml") if not path.stem.endswith("-projection")}
    if name_or_path not in shipped:
        rule = f"no such scenario{meant(name_or_path, shipped)}; a file of your own is named by its path"
        raise ScenarioError(name_or_path, "", rule)
    return _read(shipped[name_or_path])


def read_text(path: Path) -> str:
    """A file of at most a MiB, with or without the mark that some programs put first. Raises ScenarioError."""
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
        if len(content) > _BYTES_MAX:
            raise ScenarioError(str(path), "", f"too large: more than {_BYTES_MAX:,} bytes")
        return content.decode("utf-8-sig")
    except OSError as exc:
        raise ScenarioError(str(path), "", f"cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ScenarioError(str(path), "", "is not UTF-8 text") from None


def _read(path: Path) -> Scenario:
    return read_scenario(read_text(path), str(path))
