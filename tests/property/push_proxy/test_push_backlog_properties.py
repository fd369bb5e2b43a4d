"""A device behind a slow socket ends as one that was sent everything: same state, and every other broadcast told of.

Method: Hypothesis draws chains of two topics, some links of them lost before they came here; all go through a backlog,
and a device by the rules of design section 5 reads what comes out.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contract.frames import BroadcastFrame
from push_proxy.backlog import Backlog

_CHAINS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.booleans()),  # topic, step, whether it was lost on the way
    max_size=30,
)


@given(_CHAINS, st.sampled_from(["a", "b"]))
def test_the_state_is_the_newest_and_the_rest_is_listed(chain: list[tuple[str, int, bool]], watched: str) -> None:
    """Holes are reported where links were lost, and only there."""
    latest = {"a": 1, "b": 1}
    waits = Backlog(since_s=0.0, max_bytes=1_000_000)
    sent: list[BroadcastFrame] = []
    for topic, step, lost in chain:
        prev = latest[topic]
        latest[topic] = prev + step
        if not lost:
            frame = BroadcastFrame(topic=topic, state_key="s", timestamp=latest[topic], prev=prev)
            waits.add(frame)
            if topic == watched:
                sent.append(frame)
    out = [frame for frame in waits.frames() if isinstance(frame, BroadcastFrame) and frame.topic == watched]
    assert len(out) == min(1, len(sent))
    if not sent:
        return
    (frame,) = out
    assert frame.timestamp == sent[-1].timestamp
    assert {*frame.skipped, frame.timestamp} == {one.timestamp for one in sent}
    unbroken = sent[-1]
    for one in reversed(sent[:-1]):
        if one.timestamp != unbroken.prev:
            break
        unbroken = one
    assert frame.prev == unbroken.prev
