"""Admission under any order of events: rates hold in every stretch of time, counts never drift, memory is bounded."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from push_proxy.admission import Admission, AdmissionLimits, Capacity, Source, TokenBucket, capacity

_TIMES = st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=120)


@settings(deadline=None)
@given(rate=st.floats(0.1, 1_000), burst=st.integers(1, 50), pauses=_TIMES)
def test_a_bucket_never_admits_more_than_rate_times_t_and_its_burst(
    rate: float, burst: int, pauses: list[float]
) -> None:
    """In every stretch between two admissions, not only from the start on."""
    bucket, now_s, taken = TokenBucket(rate, burst), 1_000.0, []
    for pause in pauses:
        now_s += pause / rate
        for _ in range(3):
            if bucket.take(now_s):
                taken.append(now_s)
    for first, from_s in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= rate * (taken[last] - from_s) + burst + 1e-6


@settings(deadline=None)
@given(rate=st.floats(0.1, 1_000), burst=st.integers(1, 50), pauses=_TIMES)
def test_a_bucket_is_not_stingier_than_a_counted_one(rate: float, burst: int, pauses: list[float]) -> None:
    """The same verdicts as the textbook's bucket of tokens, up to rounding; `ready` foretells `take`."""
    bucket, level, now_s = TokenBucket(rate, burst), float(burst), 1_000.0
    for pause in pauses:
        now_s += pause / rate
        level = min(float(burst), level + pause)
        ready = bucket.ready(now_s)
        taken = bucket.take(now_s)
        assert ready is taken
        if abs(level - 1) > 1e-6:
            assert taken is (level > 1)
        if taken:
            level -= 1


@settings(deadline=None)
@given(
    wanted=st.integers(1, 100_000), files=st.one_of(st.none(), st.integers(4, 200_000)), reserved=st.integers(0, 5_000)
)
def test_capacity_always_fits(wanted: int, files: int | None, reserved: int) -> None:
    """At least one session, a lane above them where there are files, never more than asked for or than there are."""
    fits = capacity(wanted, file_limit=files, reserved_files=reserved)
    assert 1 <= fits.sessions <= wanted
    assert fits.sessions < fits.open
    if files is not None:
        assert fits.open <= files


_LIMITS = AdmissionLimits(
    capacity=Capacity(6, 100),
    handshakes_per_s=2.0,
    handshake_burst=8,
    connections_per_address=3,
    handshakes_per_address_per_s=1.0,
    handshake_burst_per_address=4,
    idle_addresses=3,
)
_EVENTS = st.lists(
    st.tuples(st.sampled_from(["open", "open", "handshake", "handshake", "close", "wait"]), st.integers(0, 7)),
    min_size=30,
    max_size=200,
)


@settings(deadline=None)
@given(events=_EVENTS)
def test_counts_follow_a_naive_model(events: list[tuple[str, int]]) -> None:
    """Any order of opens, handshakes and closes: what is admitted has room, and what is gone is forgotten."""
    admission, now_s = Admission(_LIMITS), 0.0
    sockets: list[tuple[str, Source, bool]] = []
    for what, number in events:
        host = f"192.0.2.{number % 3}"
        if what == "open":
            source = admission.opened(host)
            if source is not None:
                sockets.append((host, source, False))
        elif what == "wait":
            now_s += number / 4
        elif sockets and what == "close":
            admission.closed(sockets.pop(number % len(sockets))[1])
        elif sockets:
            at = number % len(sockets)
            host, source, _ = sockets[at]
            sessions = sum(inside for _, _, inside in sockets)
            verdict = admission.handshake(source, now_s, sessions=sessions)
            of_address = sum(other == host for other, _, _ in sockets)
            if verdict == "yes":
                assert sessions < 6
                assert of_address <= 3
                sockets[at] = (host, source, True)
            elif verdict == "full":
                assert sessions >= 6
        hosts = {host for host, _, _ in sockets}
        connected, remembered = admission.addresses
        assert (admission.open, connected) == (len(sockets), len(hosts))
        assert remembered <= 3, "as many as there are addresses"
        for host, source, _ in sockets:
            assert admission.open_of(source) == sum(other == host for other, _, _ in sockets)


@settings(deadline=None)
@given(high=st.integers(0, 2**64 - 1), lows=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
def test_an_ipv6_network_is_one_address_however_it_is_written(high: int, lows: list[int]) -> None:
    """Every address of a /64 has the same key, unless it is an IPv4 address in disguise."""
    admission = Admission(_LIMITS._replace(connections_per_address=100))
    sources = set()
    for low in lows:
        groups = [f"{(high << 64 | low) >> shift & 0xFFFF:x}" for shift in range(112, -1, -16)]
        if high == 0 and low >> 32 == 0xFFFF:
            continue
        sources.add(admission.opened(":".join(groups)))
        sources.add(admission.opened(":".join(group.zfill(4).upper() for group in groups)))
    assert len(sources) <= 1


_NETWORKS = st.one_of(
    st.builds(lambda ip, prefix: ip_network((ip, prefix), strict=False), st.ip_addresses(v=4), st.integers(0, 32)),
    st.builds(lambda ip, prefix: ip_network((ip, prefix), strict=False), st.ip_addresses(v=6), st.integers(0, 128)),
)


@settings(deadline=None)
@given(address=st.ip_addresses(), networks=st.lists(_NETWORKS, max_size=4), near=st.integers(0, 128))
def test_exempt_means_what_ipaddress_says(
    address: IPv4Address | IPv6Address, networks: list[IPv4Network | IPv6Network], near: int
) -> None:
    """Numbers and masks against the library, with a network around the address among them now and then."""
    if near <= address.max_prefixlen:
        networks = [*networks, ip_network((address, near), strict=False)]
    judged = address
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        judged = address.ipv4_mapped
    admission = Admission(_LIMITS._replace(exempt=tuple(networks)))
    source = admission.opened(str(address))
    assert source is not None
    assert admission.exempt(source) is any(judged in network for network in networks)
