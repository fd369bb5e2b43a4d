"""Whatever a ranking service answers: recommendations of titles of the catalog, Missing, or Garbage."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgs.model import Title
from dgs.picks import Missing
from dgs.ports import Need
from dgs.sources.ranking_wire import Garbage, answer_limit_bytes, read_answer
from dgs.stage_map import Recommendations

BY_ID = {f"t{number}": Title(id=f"t{number}", name="x") for number in range(5)}
IDS = st.sampled_from([*BY_ID, "gone", "", "\x00"])
PROFILE = st.sampled_from(["a", "b", "stranger"])
ENTRY = st.fixed_dictionaries(
    {"profile": PROFILE},
    optional={
        "ranked": st.lists(IDS, max_size=8),
        "because": st.lists(st.fixed_dictionaries({"title": IDS, "near": st.lists(IDS, max_size=4)}), max_size=3),
        "missing": st.text(max_size=80) | st.none(),
        "more": st.integers(),
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ANSWER = st.fixed_dictionaries({"recommendations": st.lists(ENTRY | JSON, max_size=5)}) | JSON
NEEDS = st.builds(Need, st.integers(1, 6), st.integers(0, 3), st.integers(0, 3))


@given(ANSWER.map(lambda answer: json.dumps(answer).encode()) | st.binary(max_size=60), NEEDS)
def test_an_answer_is_believed_as_far_as_it_can_be(body: bytes, need: Need) -> None:
    """Only those asked for, each once; known titles, none twice, no more than needed; entries are all accounted for."""
    asked = frozenset({"a", "b"})
    try:
        read = read_answer(body, asked, need, BY_ID)
    except Garbage:
        return
    assert set(read.found) <= asked
    entries = json.loads(body)["recommendations"]
    assert len(entries) == len(read.found) + read.strangers + read.malformed
    for answer in read.found.values():
        if isinstance(answer, Missing):
            assert answer.why
            assert answer.why.isprintable()
            continue
        assert isinstance(answer, Recommendations)
        assert 0 < len(answer.ranked) <= need.k
        assert len(set(answer.ranked)) == len(answer.ranked)
        assert len(answer.because) <= need.because
        assert all(BY_ID[title.id] is title for title in answer.ranked)
        assert all(len(near) <= need.per_because for _, near in answer.because)


@given(st.integers(1, 64), NEEDS)
def test_a_whole_answer_fits_its_limit(profiles: int, need: Need) -> None:
    """The longest ids there are, for everybody and everything asked for, are read."""
    longest = "x" * 80
    entry = {
        "profile": "p" * 128,
        "ranked": [longest] * need.k,
        "because": [{"title": longest, "near": [longest] * need.per_because}] * need.because,
    }
    assert len(json.dumps({"recommendations": [entry] * profiles})) <= answer_limit_bytes(profiles, need)


def test_bytes_that_are_no_text_cost_their_own_entry() -> None:
    """msgspec says UnicodeDecodeError there, which is no DecodeError of its own."""
    bad = b'{"profile":"b","missing":"\xff"}'
    body = b'{"recommendations":[' + bad + b',{"profile":"a","ranked":["t1"]}]}'
    read = read_answer(body, frozenset({"a", "b"}), Need(3, 0, 0), BY_ID)
    assert (set(read.found), read.malformed) == ({"a"}, 1)
    with pytest.raises(Garbage):
        read_answer(b'{"\xff":1}', frozenset({"a"}), Need(3, 0, 0), BY_ID)
