"""Which web pages may connect, pure: an allow-list of origins, compared on whole labels.

Only browsers send `Origin`, and only they are bound by this: a page cannot set it, any other program can. The default
allows every page, and may: a connection is opened by the token in it, which a foreign page does not have. Nothing
here is ambient, neither cookies nor addresses. Whoever hands tokens to pages in cookies, or serves inside a private
network, names the pages.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from contract.errors import InvalidRequest

__all__ = ["ANY_ORIGIN", "OriginRules", "parse_origins"]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[^/:\[\]@?#\s]+)(?::(?P<port>[0-9]{1,5}))?"
)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_MAX_ORIGIN_CHARS: Final = 512
_RULE: Final = "like https://tv.example.com, https://*.example.com, http://localhost:3000, null or *"


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class OriginRules:
    """An allow-list. Scheme and port must be the same; `*.example.com` stands for one or more whole labels.

    An empty list allows no page at all. `null`, the origin of sandboxed frames and local files, must be named itself.
    """

    __slots__ = ("_exact", "_suffixes", "allows_any", "allows_null", "text")

    def __init__(
        self, exact: frozenset[_Origin], suffixes: frozenset[_Origin], *, any_: bool, null: bool, text: str
    ) -> None:
        self._exact = exact
        self._suffixes = suffixes
        self.allows_any = any_
        self.allows_null = null
        self.text = text

    def __repr__(self) -> str:
        return f"OriginRules({self.text!r})"

    def allows(self, origin: str) -> bool:
        """Judge the `Origin` of a request. A request without one is not a browser's, and not asked about here.

        Two values in one header are nobody's origin: only the rule `*` lets them pass.
        """
        if self.allows_any:
            return True
        if origin == "null":
            return self.allows_null
        page = _parse(origin)
        if page is None:
            return False
        if page in self._exact:
            return True
        labels = page.host.split(".")
        return any(page._replace(host=".".join(labels[at:])) in self._suffixes for at in range(1, len(labels)))


def parse_origins(text: str, *, field: str = "PUSH_ALLOWED_ORIGINS") -> OriginRules:
    """The rules of a list by commas or spaces; raises InvalidRequest naming field, entry and rule."""
    exact: set[_Origin] = set()
    suffixes: set[_Origin] = set()
    any_ = null = False
    for entry in re.split(r"[,\s]+", text.strip()):
        if not entry:
            continue
        if entry == "*":
            any_ = True
        elif entry == "null":
            null = True
        else:
            wild, origin = _parse_rule(entry, field)
            (suffixes if wild else exact).add(origin)
    return OriginRules(frozenset(exact), frozenset(suffixes), any_=any_, null=null, text=text)


def _parse_rule(entry: str, field: str) -> tuple[bool, _Origin]:
    def wrong(why: str) -> InvalidRequest:
        return InvalidRequest(f"{entry[:100]!r} {why}", field=field, rule=_RULE)

    if not entry.isascii():
        raise wrong("is not ASCII; write the name as browsers send it, in its xn-- form")
    wild = "://*." in entry
    origin = _parse(entry.replace("://*.", "://", 1) if wild else entry)
    if origin is None:
        raise wrong("is no origin: a scheme, a host, and at most a port")
    if origin.scheme not in _DEFAULT_PORTS:
        raise wrong(f"has the scheme {origin.scheme}; pages that connect come from https or http")
    last = origin.host.rsplit(".", 1)[-1]
    if wild and (origin.host.startswith("[") or last.isdigit()):
        raise wrong("puts a wildcard before an address")
    if wild and "." not in origin.host and origin.host != "localhost":
        raise wrong(f"would allow every name under {origin.host}; give at least two labels after the wildcard")
    return wild, origin


def _parse(text: str) -> _Origin | None:
    """Scheme, host, port of an origin as RFC 6454 serialises it; None for anything more or less than that."""
    if len(text) > _MAX_ORIGIN_CHARS:
        return None
    matched = _ORIGIN.fullmatch(text.lower())
    if matched is None:
        return None
    scheme, host, port = matched["scheme"], matched["host"], matched["port"]
    if not host.startswith("[") and not all(_LABEL.fullmatch(label) for label in host.split(".")):
        return None
    number = int(port) if port else _DEFAULT_PORTS.get(scheme, 0)
    return _Origin(scheme, host, number) if 0 <= number <= 65_535 else None


ANY_ORIGIN: Final = parse_origins("*")
