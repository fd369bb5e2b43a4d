"""Who is let in, pure: files, connections, a rate of handshakes, and a share per address. Times are monotonic seconds.

Two gates. `opened`, at accept, only counts sockets: above the open files there is nobody who could answer. `handshake`,
once a request for a stream is read and before its token is looked at, decides with a few comparisons: refusing must
cost less than serving. Between both limits lies a lane in which refusals are read and answered with a moment to return.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, Literal, NamedTuple, NewType
from zlib import crc32

from contract.errors import InvalidRequest

__all__ = [
    "Admission",
    "AdmissionLimits",
    "Capacity",
    "Network",
    "Room",
    "Source",
    "TokenBucket",
    "capacity",
    "parse_networks",
]

Network = IPv4Network | IPv6Network
Room = Literal["yes", "full", "draining", "too_fast", "address"]
"""Whether this node takes one more: it is full, about to end, asked too often, or too much from one address."""


_LANE_MIN: Final = 64
_MAPPED: Final = 0xFFFF
"""What precedes an IPv4 address mapped into IPv6, in the 96 bits above it."""
_IPV6: Final = 1 << 64
_EXEMPT_IPV6: Final = 1 << 128
"""Above every IPv4 address, and above every /64: kinds of addresses told apart as numbers."""


class Capacity(NamedTuple):
    sessions: int
    """Connections served at most."""
    open: int
    """Sockets held at most: sessions, handshakes under way, refusals being answered."""


def capacity(max_connections: int, *, file_limit: int | None, reserved_files: int) -> Capacity:
    """What fits under the process's limit of open files; None: no limit.

    `reserved_files` are left for links, stores and logs, at most a quarter of the limit. A tenth on top of the sessions
    (a twentieth of what there is, if that is scarce) is the lane of handshakes.
    """
    assert max_connections >= 1
    if file_limit is None:
        return Capacity(max_connections, max_connections + max(_LANE_MIN, max_connections // 10))
    room = max(2, file_limit - min(reserved_files, file_limit // 4))
    sessions = max(1, min(max_connections, room - max(8, room // 20)))
    return Capacity(sessions, min(room, sessions + max(_LANE_MIN, sessions // 10)))


class TokenBucket:
    """At most `rate_per_s` x t + `burst` admissions in any t seconds; one number of state (GCRA)."""

    __slots__ = ("_full_at_s", "_spacing_s", "_tolerance_s")

    def __init__(self, rate_per_s: float, burst: int) -> None:
        assert rate_per_s > 0, "a bucket that never fills"
        assert burst >= 1, "a bucket that holds nothing"
        self._spacing_s = 1 / rate_per_s
        self._tolerance_s = (burst - 1) / rate_per_s
        self._full_at_s = float("-inf")

    def ready(self, now_s: float) -> bool:
        """Whether `take` would take one."""
        return self._full_at_s - now_s <= self._tolerance_s

    def take(self, now_s: float) -> bool:
        full_at_s = self._full_at_s
        if full_at_s - now_s > self._tolerance_s:
            return False
        self._full_at_s = (full_at_s if full_at_s > now_s else now_s) + self._spacing_s
        return True


class AdmissionLimits(NamedTuple):
    capacity: Capacity
    handshakes_per_s: float
    handshake_burst: int
    connections_per_address: int
    handshakes_per_address_per_s: float
    handshake_burst_per_address: int
    exempt: tuple[Network, ...] = ()
    """Addresses that stand for many devices: proxies and load balancers of one's own."""
    idle_addresses: int = 8192
    """Addresses remembered beside those connected; whoever began first is forgotten first."""


Source = NewType("Source", int)
"""One address (an IPv6 /64) as a number; the listener keeps it per connection and hands it back.

Most addresses have one connection, and there are as many as devices: a count and, while it matters, a rate are all
that is kept of one.
"""


class Admission:
    """Counts sockets and addresses, and decides. Memory: a number per address connected, another while it is busy."""

    __slots__ = (
        "_address_open_max",
        "_bucket",
        "_exempt",
        "_full_at_s",
        "_limits",
        "_most_busy",
        "_open",
        "_open_of",
        "_spacing_s",
        "_tolerance_s",
        "draining",
    )

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._bucket = TokenBucket(limits.handshakes_per_s, limits.handshake_burst)
        per_address = limits.connections_per_address
        self._address_open_max = per_address + max(_LANE_MIN, per_address // 10)
        self._exempt = _Exempt(limits.exempt)
        self._open_of: dict[Source, int] = {}
        self._full_at_s: dict[Source, float] = {}
        """A token bucket per address, as in TokenBucket; one that is full again is forgotten."""
        self._spacing_s = 1 / limits.handshakes_per_address_per_s
        self._tolerance_s = (limits.handshake_burst_per_address - 1) / limits.handshakes_per_address_per_s
        self._most_busy = limits.capacity.open + limits.idle_addresses
        self._open = 0
        self.draining = False
        """Set once a drain has begun: nobody is admitted any more."""

    @property
    def open(self) -> int:
        """Sockets opened and not closed."""
        return self._open

    @property
    def addresses(self) -> tuple[int, int]:
        """Addresses connected, addresses whose handshakes are remembered."""
        return len(self._open_of), len(self._full_at_s)

    def open_of(self, source: Source) -> int:
        """Sockets of one address."""
        return self._open_of.get(source, 0)

    def exempt(self, source: Source) -> bool:
        """Whether this address is free of the limits per address."""
        return self._exempt.covers(source)

    def opened(self, host: str) -> Source | None:
        """A socket was accepted from `host`; None: cut it off at once, without an answer and without `closed`."""
        if self._open >= self._limits.capacity.open:
            return None
        source = self._exempt.source(host)
        count = self._open_of.get(source, 0)
        if count >= self._address_open_max and not self.exempt(source):
            return None
        self._open_of[source] = count + 1
        self._open += 1
        return source

    def handshake(self, source: Source, now_s: float, *, sessions: int) -> Room:
        """Judge a request for a stream, `sessions` being served now; only "yes" uses up the rates."""
        if self.draining:
            return "draining"
        full_at_s = self._full_at_s.get(source, now_s)
        crowded = self._open_of.get(source, 0) > self._limits.connections_per_address
        if (crowded or full_at_s - now_s > self._tolerance_s) and not self.exempt(source):
            return "address"
        if sessions >= self._limits.capacity.sessions:
            return "full"
        if not self._bucket.take(now_s):
            return "too_fast"
        self._remember(source, max(full_at_s, now_s) + self._spacing_s, now_s)
        return "yes"

    def closed(self, source: Source) -> None:
        """A socket that was opened is gone; exactly once each."""
        count = self._open_of.get(source, 0)
        assert count > 0, "closed more often than opened"
        self._open -= 1
        if count == 1:
            del self._open_of[source]
        else:
            self._open_of[source] = count - 1

    def forget_quiet(self, now_s: float) -> None:
        """Forget addresses whose bucket is full again; call it about once a second."""
        quiet = [source for source, full_at_s in self._full_at_s.items() if full_at_s <= now_s]
        for source in quiet:
            del self._full_at_s[source]

    def head_timeout_s(self, usual_s: float, *, sessions: int) -> float:
        """How long a new socket may take to send its request: less as the lane fills, a fifth when it is full.

        Slow requests hold the lane; nobody else's handshake waits for them for long.
        """
        lane = max(1, self._limits.capacity.open - sessions)
        used = min(1.0, max(0, self._open - sessions) / lane)
        return usual_s * (1.0 - 0.8 * used)

    def _remember(self, source: Source, full_at_s: float, now_s: float) -> None:
        busy = self._full_at_s
        if len(busy) >= self._most_busy and source not in busy:
            self.forget_quiet(now_s)
            while len(busy) >= self._most_busy:  # of those who are all busy, whoever began first
                del busy[next(iter(busy))]
        busy[source] = full_at_s


class _Exempt:
    """Addresses and networks as numbers and masks: asking `ipaddress` itself costs as much as a whole handshake."""

    __slots__ = ("_ipv4", "_ipv6")

    def __init__(self, networks: Iterable[Network]) -> None:
        known = [(each.version, int(each.network_address), int(each.netmask)) for each in networks]
        self._ipv4 = tuple((network, mask) for version, network, mask in known if version == 4)
        self._ipv6 = tuple((network, mask) for version, network, mask in known if version == 6)

    def source(self, host: str) -> Source:
        """What is counted as one address.

        An IPv4 address, also one mapped into IPv6; the /64 of an IPv6 address, or itself if it is exempt: a proxy
        may share its /64 with others, who are not. What is no address has a number of its own.
        """
        try:
            first, second, third, fourth = host.split(".")
            return Source(int(first) << 24 | int(second) << 16 | int(third) << 8 | int(fourth))
        except ValueError:
            return self._source_of_ipv6(host)

    def _source_of_ipv6(self, host: str) -> Source:
        try:
            number = int(IPv6Address(host.partition("%")[0]))  # a zone (`%eth0`) says nothing of who it is
        except AddressValueError:
            return Source(-1 - crc32(host.encode()))
        if number >> 32 == _MAPPED:
            return Source(number & 0xFFFF_FFFF)
        if _lies_in(number, self._ipv6):
            return Source(_EXEMPT_IPV6 | number)
        return Source(_IPV6 | number >> 64)

    def covers(self, source: Source) -> bool:
        """Whether this address is exempt."""
        if source >= _EXEMPT_IPV6:
            return True
        return 0 <= source < _IPV6 and _lies_in(source, self._ipv4)


def parse_networks(text: str, *, field: str) -> tuple[Network, ...]:
    """Networks by commas, each `10.0.0.0/8` or one address; raises InvalidRequest that names the one at fault."""
    networks: list[Network] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            networks.append(ip_network(part))
        except ValueError as exc:
            raise InvalidRequest(
                f"{part[:60]!r} is no network: {exc}", field=field, rule="like 10.0.0.0/8, 192.0.2.7 or fd00::/8"
            ) from exc
    return tuple(networks)


def _lies_in(number: int, networks: Iterable[tuple[int, int]]) -> bool:
    return any(number & mask == network for network, mask in networks)
