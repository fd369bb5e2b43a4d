"""A child's side of a `LineMember`: one command per line in, one line of JSON out, ends with its input."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final

import msgspec

from loadtest.gameday.clients.net import Net

__all__ = ["Commands", "say"]

_STDIN: Final = 0


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
