"""Rotations at any moments: whatever is signed is read for as long as promised, also by services late with the file."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import Conflict
from contract.token_rings import MAX_KEYS, StoredKey, StoredRing, read_rings, written_rings
from contract.tokens import DeviceClaims

LEAD_S, KEEP_S = 10.0, 100.0
CLAIMS = DeviceClaims(sub="p", dev="d", exp=10**9)


def key(number: int) -> StoredKey:
    return StoredKey(alg="HS256", secret=number.to_bytes(2, "big") * 16)


def as_of(versions: list[tuple[float, StoredRing]], at_s: float) -> StoredRing:
    """The file as it was at that moment."""
    return [ring for since_s, ring in versions if since_s <= at_s][-1]


@settings(max_examples=200, deadline=None)
@given(
    pauses=st.lists(st.floats(0, 60), min_size=1, max_size=8),
    signs_at=st.floats(0, 1),
    issuer_late_s=st.floats(0, LEAD_S),
    reader_late_s=st.floats(0, LEAD_S),
    read_after_s=st.floats(0, KEEP_S, exclude_max=True),
)
def test_what_a_late_issuer_signs_a_late_reader_reads(pauses, signs_at, issuer_late_s, reader_late_s, read_after_s):
    """Nobody is later than the lead, no token older than what is kept: then no token is refused, ever."""
    now_s = 0.0
    versions = [(now_s, StoredRing(signing_kid="k0", keys={"k0": key(0)}))]
    for number, pause_s in enumerate(pauses, start=1):
        now_s += pause_s
        ring = versions[-1][1].rotated(f"k{number}", key(number), now_s=now_s, lead_s=LEAD_S, keep_s=KEEP_S)
        versions.append((now_s, ring))
    signed_s = signs_at * (now_s + 2 * LEAD_S)
    read_s = signed_s + read_after_s
    issuer = as_of(versions, max(0.0, signed_s - issuer_late_s)).ring("stagecue.device", signed_s)
    reader = as_of(versions, max(0.0, read_s - reader_late_s)).ring("stagecue.device", read_s)
    assert reader.verify_device(issuer.sign(CLAIMS), now_s=read_s) == CLAIMS


steps = st.lists(
    st.tuples(
        st.floats(0, 50),
        st.sampled_from(["rotate", "retire", "retire later", "trust"]),
        st.integers(0, 12),
        st.floats(0, 30),
        st.floats(0, 60),
    ),
    max_size=15,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_whatever_is_done_to_a_ring_something_signs_for_ever_and_the_file_keeps_it(changes):
    """A change is made whole or refused; at every later moment one key signs, and it verifies what it signs."""
    ring, now_s = StoredRing(signing_kid="k0", keys={"k0": key(0)}), 0.0
    others = dict.fromkeys(("stagecue.operator", "stagecue.link", "stagecue.profile"), ring)
    for number, (pause_s, what, chosen, lead_s, keep_s) in enumerate(changes, start=1):
        now_s += pause_s
        kid = list(ring.keys)[chosen % len(ring.keys)]
        try:
            if what == "rotate":
                ring = ring.rotated(f"k{number}", key(number), now_s=now_s, lead_s=lead_s, keep_s=keep_s)
            elif what == "trust":
                ring = ring.trusted(f"k{number}", StoredKey(alg="EdDSA", public=bytes(range(32))), now_s=now_s)
            else:
                ring = ring.retired(kid, now_s=now_s, after_s=keep_s if what == "retire later" else 0)
        except Conflict:
            continue
        assert len(ring.keys) <= MAX_KEYS
        assert ring.always_signs(now_s)
        at_s = now_s
        while at_s < float("inf"):
            live = ring.ring("stagecue.device", at_s)
            assert live.verify_device(live.sign(CLAIMS), now_s=at_s) == CLAIMS
            at_s = ring.next_change_s(at_s)
        assert read_rings(written_rings(others | {"stagecue.device": ring}))["stagecue.device"] == ring
