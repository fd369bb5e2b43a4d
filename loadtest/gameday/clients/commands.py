"""A child's side of a `LineMember`: one command per line in, one line of JSON out, ends with its input."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from loadtest.gameday.clients.net import Net
from loadtest.open_files import raise_file_limit

__all__ = ["Commands", "read_plan", "say", "serve"]

_STDIN: Final = 0
_P = TypeVar("_P")


def say(found: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    sys.stdout.buffer.flush()


class Commands:
    """Words of each line to `obey`; what it returns is said."""

    def __init__(self, net: Net, obey: Callable[[list[str]], object]) -> None:
        self._net = net
        self._obey = obey
        self._rest = b""
        net.add_reader(_STDIN, self._readable)

    def _readable(self) -> None:
        data = os.read(_STDIN, 65_536)
        if not data:
            self._net.stop()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            say(self._obey(line.decode().split()))


def read_plan(kind: type[_P]) -> _P:
    """The plan in the file this process was given; and from then on it may open as many files as it is let."""
    raise_file_limit()
    return msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=kind)


def serve(net: Net, obey: Callable[[list[str]], object], *, ready: object) -> int:
    """Say `ready`, then obey until the input ends. Returns the exit code."""
    Commands(net, obey)
    say(ready)
    try:
        net.run()
    finally:
        net.close()
    return 0
