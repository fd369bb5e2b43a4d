"""A device behind a slow socket ends as one that was sent everything: same state, and every other broadcast told of.

Method: Hypothesis draws chains of two topics, some links of them lost before they came here; all go through a backlog,
and a device by the rules of design section 5 reads what comes out.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contract.frames import AckRequest, BroadcastFrame, encode_frame
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


_FRAMES = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.integers(1, 200_000),  # timestamp: in any order, repeats too, of one digit to six
        st.integers(0, 200_000),  # how far back prev lies, at most
        st.lists(st.integers(0, 200_000), max_size=3),  # before it, and itself passed over already
        st.booleans(),
    ),
    max_size=20,
)


@given(_FRAMES)
def test_it_is_what_merging_them_one_by_one_makes(drawn: list[tuple[str, int, int, list[int], bool]]) -> None:
    """Any order, repeats and lists of their own: the frames and their bytes are those of the plain rule, after each."""
    waits = Backlog(since_s=0.0, max_bytes=1_000)
    plain: dict[str, BroadcastFrame] = {}
    for topic, timestamp, back, earlier, replayed in drawn:
        frame = BroadcastFrame(
            topic=topic,
            state_key=f"s{timestamp}",
            timestamp=timestamp,
            prev=max(0, timestamp - 1 - back),
            skipped=tuple(timestamp - 1 - one for one in earlier if one < timestamp),
            replayed=replayed,
            ack=AckRequest(one_in=10, within_ms=timestamp) if replayed else None,
        )
        waiting = plain.get(topic)
        plain[topic] = frame if waiting is None else merged(waiting, frame)
        waits.add(frame)
        assert waits.frames() == tuple(plain.values())
        assert waits.size_bytes == sum(len(encode_frame(one)) for one in plain.values())
        assert waits.overflowing == (waits.size_bytes > 1_000)


def merged(waiting: BroadcastFrame, newer: BroadcastFrame) -> BroadcastFrame:
    """The rule for two, each time building the whole frame."""
    if newer.timestamp <= waiting.timestamp:
        frame, prev, skipped = waiting, waiting.prev, {*waiting.skipped, newer.timestamp}
    else:
        prev = waiting.prev if newer.prev == waiting.timestamp else newer.prev
        frame, skipped = newer, {*waiting.skipped, waiting.timestamp, *newer.skipped}
    return BroadcastFrame(
        topic=frame.topic,
        state_key=frame.state_key,
        timestamp=frame.timestamp,
        prev=prev,
        replayed=frame.replayed,
        skipped=tuple(sorted(skipped - {frame.timestamp})),
        ack=frame.ack,
    )
