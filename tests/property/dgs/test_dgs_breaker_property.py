"""Whatever happens to calls, the breaker lets one probe at a time and is never stuck."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dgs.breaker import Breaker, Permit

PROBE_S = 3.0
LONGEST_S = 8.0
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ok", "failed", "given up", "lost"]), st.integers(0, 7), st.floats(0, 2, width=16)
    ),
    max_size=120,
)


@given(STEPS, st.floats(0, 1, exclude_max=True), st.integers(1, 4), st.integers(0, 4))
def test_one_probe_at_a_time_and_never_stuck(
    steps: list[tuple[str, int, float]], draw: float, failures: int, more: int
) -> None:
    """Permits end in any order, any way, or never. While half open at most one permit younger than `probe_s` is out,
    nothing is allowed sooner than half a pause after opening, and after all pauses a good call closes it."""
    breaker = Breaker(
        failures=failures,
        window=failures + more,
        first_pause_s=1.0,
        longest_pause_s=LONGEST_S,
        probe_s=PROBE_S,
        jitter=lambda: draw,
    )
    now_s = 0.0
    out: list[tuple[Permit, float]] = []
    probes: list[tuple[Permit, float]] = []
    opened_at_s = 0.0
    for do, which, after_s in steps:
        now_s += after_s
        before = breaker.opened
        if do == "ask":
            was_closed = breaker.state == "closed"
            refuses, wait_s = breaker.refuses(now_s), breaker.wait_s(now_s)
            permit = breaker.allow(now_s)
            assert (permit is None) == refuses == (wait_s > 0)
            if was_closed:
                assert permit is not None
            elif permit is not None:
                assert now_s - opened_at_s >= 0.5
                assert not [probe for probe, at_s in probes if now_s - at_s < PROBE_S]
                probes.append((permit, now_s))
            if permit is not None:
                out.append((permit, now_s))
        elif out:
            permit, _ = out.pop(which % len(out))
            if do == "ok":
                breaker.ok(permit)
            elif do == "failed":
                breaker.failed(permit, now_s)
            elif do == "given up":
                breaker.given_up(permit)
            if do != "lost":
                probes = [entry for entry in probes if entry[0] != permit]
        if breaker.opened > before:
            opened_at_s = now_s
            probes.clear()
        if breaker.state == "closed":
            probes.clear()
    now_s += LONGEST_S + PROBE_S
    permit = breaker.allow(now_s)
    assert permit is not None
    breaker.ok(permit)
    assert breaker.state == "closed"
