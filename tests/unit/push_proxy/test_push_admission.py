"""Admission: files, connections, rates, shares per address, and what is remembered."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from contract.errors import InvalidRequest
from push_proxy.admission import (
    Admission,
    AdmissionLimits,
    Capacity,
    Source,
    TokenBucket,
    capacity,
    parse_networks,
)
from push_proxy.settings import PushSettings

LIMITS = AdmissionLimits(
    capacity=Capacity(sessions=100, open=164),
    handshakes_per_s=10.0,
    handshake_burst=50,
    connections_per_address=5,
    handshakes_per_address_per_s=1.0,
    handshake_burst_per_address=3,
    exempt=(ip_network("10.0.0.0/8"),),
    idle_addresses=4,
)


def opened(admission: Admission, host: str) -> Source:
    source = admission.opened(host)
    assert source is not None
    return source


# Capacity.


@pytest.mark.parametrize(
    ("wanted", "files", "expected"),
    [
        (18_000, 20_000, Capacity(18_000, 19_800)),
        (18_000, None, Capacity(18_000, 19_800)),
        (18_000, 1_024, Capacity(783, 824)),
        (18_000, 256, Capacity(183, 192)),
        (2, 20_000, Capacity(2, 66)),
        (5, 4, Capacity(1, 3)),
    ],
)
def test_capacity_lies_under_the_file_limit(wanted: int, files: int | None, expected: Capacity) -> None:
    """Sessions leave room for handshakes, both leave files for the rest of the process; at least one session."""
    assert capacity(wanted, file_limit=files, reserved_files=200) == expected


def test_the_settings_give_the_limits() -> None:
    """The file limit is the process's, the rest is what an operator set."""
    limits = PushSettings(max_connections=500, exempt_networks="192.0.2.7").admission_limits(20_000)
    assert limits.capacity == Capacity(500, 564)
    assert limits.exempt == (ip_network("192.0.2.7/32"),)


# Token bucket.


def test_bucket_takes_its_burst_then_its_rate() -> None:
    """Three at once, then one a second; a rest fills it again, and not beyond the burst."""
    bucket = TokenBucket(1.0, 3)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.ready(0.5)
    assert [bucket.take(1.0), bucket.take(1.0)] == [True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


# Two gates.


def test_sessions_fill_the_node_and_the_lane_answers() -> None:
    """At the session limit a handshake is told that it is full; above the open sockets nobody is answered."""
    admission = Admission(LIMITS._replace(handshakes_per_s=1e6, handshake_burst=10_000))
    sources = [opened(admission, f"10.0.0.{n}") for n in range(164)]
    assert admission.handshake(sources[0], 0.0, sessions=99) == "yes"
    assert admission.handshake(sources[1], 0.0, sessions=100) == "full"
    assert admission.opened("10.9.9.9") is None
    admission.closed(sources[0])
    assert admission.opened("10.9.9.9") is not None
    assert admission.open == 164


def test_the_rate_of_the_node() -> None:
    """The burst, then `too_fast` until time has passed; a refusal does not use the rate up."""
    admission = Admission(LIMITS)
    verdicts = [admission.handshake(opened(admission, f"10.0.0.{n}"), 5.0, sessions=n) for n in range(60)]
    assert verdicts == ["yes"] * 50 + ["too_fast"] * 10
    late = opened(admission, "10.0.1.1")
    assert [admission.handshake(late, 5.2, sessions=50) for _ in range(3)] == ["yes", "yes", "too_fast"]


def test_a_full_node_uses_nobodys_rate() -> None:
    """Whoever was told that it is full is as welcome as before once there is room."""
    admission = Admission(LIMITS)
    source = opened(admission, "192.0.2.1")
    assert {admission.handshake(source, 0.0, sessions=100) for _ in range(100)} == {"full"}
    assert [admission.handshake(source, 0.0, sessions=99) for _ in range(4)] == ["yes"] * 3 + ["address"]


def test_an_address_has_its_share_of_connections() -> None:
    """Above it: refused, and far above it cut off; a neighbour notices nothing."""
    admission = Admission(LIMITS._replace(handshake_burst_per_address=1000))
    sources = [opened(admission, "192.0.2.1") for _ in range(6)]
    assert admission.handshake(sources[5], 0.0, sessions=5) == "address"
    for _ in range(5 + 64 - 6):
        sources.append(opened(admission, "192.0.2.1"))
    assert admission.opened("192.0.2.1") is None
    assert admission.handshake(opened(admission, "192.0.2.2"), 0.0, sessions=5) == "yes"
    for source in sources[5:]:
        admission.closed(source)
    assert admission.handshake(sources[0], 0.0, sessions=5) == "yes"


def test_an_address_has_its_rate_remembered_while_it_is_away() -> None:
    """Closing and coming again gains nothing; waiting does."""
    admission = Admission(LIMITS)
    verdicts = []
    for _ in range(5):
        source = opened(admission, "192.0.2.1")
        verdicts.append(admission.handshake(source, 0.0, sessions=0))
        admission.closed(source)
    assert verdicts == ["yes"] * 3 + ["address"] * 2
    assert admission.handshake(opened(admission, "192.0.2.1"), 1.0, sessions=0) == "yes"


def test_exempt_networks_have_no_share() -> None:
    """A proxy's address is many devices."""
    admission = Admission(LIMITS)
    proxied = [opened(admission, "10.1.2.3") for _ in range(80)]
    assert [admission.handshake(source, 0.0, sessions=0) for source in proxied[:50]] == ["yes"] * 50


def test_memory_of_addresses_is_bounded() -> None:
    """A busy address is remembered until its bucket is full again; there are never more than fit, and a few."""
    admission = Admission(LIMITS._replace(capacity=Capacity(10, 20), handshakes_per_s=1000.0, handshake_burst=1000))
    kept = opened(admission, "192.0.2.255")
    for n in range(200):
        source = opened(admission, f"198.51.100.{n}")
        assert admission.handshake(source, 0.0, sessions=0) == "yes"
        admission.closed(source)
    assert admission.addresses == (1, 24)
    admission.forget_quiet(60.0)
    assert admission.addresses == (1, 0)
    assert admission.open_of(kept) == 1


def test_a_draining_node_admits_nobody() -> None:
    """Whatever room it has."""
    admission = Admission(LIMITS)
    source = opened(admission, "192.0.2.1")
    admission.draining = True
    assert admission.handshake(source, 0.0, sessions=0) == "draining"


def test_slow_requests_get_less_time_as_the_lane_fills() -> None:
    """The usual time while it is empty, a fifth of it when it is full; sessions do not count."""
    admission = Admission(LIMITS)
    assert admission.head_timeout_s(5.0, sessions=0) == 5.0
    for n in range(100):
        opened(admission, f"10.0.0.{n}")
    assert admission.head_timeout_s(5.0, sessions=100) == 5.0
    for n in range(32):
        opened(admission, f"10.0.1.{n}")
    assert admission.head_timeout_s(5.0, sessions=100) == pytest.approx(3.0)
    for n in range(32):
        opened(admission, f"10.0.2.{n}")
    assert admission.head_timeout_s(5.0, sessions=100) == pytest.approx(1.0)


# Addresses.


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:DB8:1:2::", True),
        ("2001:db8:1:2::", "2001:db8:1:3::", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:c000:201", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::1", "::2", True),
        ("", "/run/push.sock", False),
        ("strange:host", "other:host", False),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    """A household has a /64; an IPv4 address is one in whichever form it comes."""
    admission = Admission(LIMITS)
    assert (opened(admission, one) == opened(admission, other)) is same


def test_a_household_is_one_address() -> None:
    """However many of its 2^64 addresses it comes from."""
    admission = Admission(LIMITS)
    sources = [opened(admission, f"2001:db8::{n:x}") for n in range(4)]
    assert len(set(sources)) == 1
    assert [admission.handshake(source, 0.0, sessions=0) for source in sources] == ["yes"] * 3 + ["address"]


def test_the_loopback_addresses_are_exempt_by_default() -> None:
    """Both of them: a proxy on the same machine, and every test."""
    admission = Admission(PushSettings().admission_limits(None))
    for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "10.2.3.4", "fd12::7"):
        assert admission.exempt(opened(admission, host)), host
    for host in ("8.8.8.8", "2001:db8::1", "100.64.0.1", "", "strange:host"):
        assert not admission.exempt(opened(admission, host)), host


def test_a_proxy_is_not_its_whole_network() -> None:
    """One exempt IPv6 address; the others of its /64 have their share, together."""
    admission = Admission(LIMITS._replace(exempt=(ip_network("2001:db8::7/128"),)))
    assert admission.exempt(opened(admission, "2001:db8::7"))
    assert not admission.exempt(opened(admission, "2001:db8::8"))
    assert opened(admission, "2001:db8::8") == opened(admission, "2001:db8::9")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "tv.example", "10.0.0.0/8;::1", "fd00::/129"])
def test_a_wrong_network_is_named(text: str) -> None:
    """Field, entry and an example; a setting says the same."""
    with pytest.raises(InvalidRequest, match="is no network") as wrong:
        parse_networks(f"127.0.0.1, {text}", field="exempt_networks")
    assert (wrong.value.field, "10.0.0.0/8" in str(wrong.value)) == ("exempt_networks", True)
    with pytest.raises(ValueError, match=r"exempt_networks: .* is no network"):
        PushSettings(exempt_networks=text)


def test_no_networks_is_a_list_too() -> None:
    """Empty entries and spaces say nothing."""
    assert parse_networks(" , ", field="f") == ()
    assert parse_networks("::1 , 10.0.0.0/8,", field="f") == (ip_network("::1/128"), ip_network("10.0.0.0/8"))
