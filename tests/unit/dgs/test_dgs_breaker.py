"""The breaker, step by step: a table of what is asked when, and what it says."""

from __future__ import annotations

import pytest

from dgs.breaker import Breaker, Permit


def made(**more: float) -> Breaker:
    return Breaker(
        **{"failures": 2, "window": 4, "first_pause_s": 1.0, "longest_pause_s": 4.0, "probe_s": 5.0, **more},  # type: ignore[arg-type]
        jitter=lambda: 1.0,
    )


def play(breaker: Breaker, script: str) -> list[str]:
    """Steps `<seconds><do>`: `a`sk, `o`k, `f`ailed, `g`iven up, on the latest permit; what `a` gave, and states."""
    said: list[str] = []
    permit: Permit | None = None
    for step in script.split():
        now_s, do = float(step[:-1]), step[-1]
        if do == "a":
            given = breaker.allow(now_s)
            permit = given or permit
            said.append("yes" if given else "no")
            continue
        assert permit is not None
        if do == "o":
            breaker.ok(permit)
        elif do == "f":
            breaker.failed(permit, now_s)
        else:
            breaker.given_up(permit)
        said.append(breaker.state)
    return said


@pytest.mark.parametrize(
    ("script", "said"),
    [
        # One failure among good ones is nothing; the second of the last four opens.
        ("0a 0o 0a 0f 0a 0o", "yes closed yes closed yes closed"),
        ("0a 0f 0a 0f 0a 0.9a", "yes closed yes open no no"),
        # Old failures are forgotten after a window.
        ("0a 0f 0a 0o 0a 0o 0a 0o 0a 0f", "yes closed yes closed yes closed yes closed yes closed"),
        # After the pause one probe, and nobody beside it; it was answered.
        ("0a 0f 0a 0f 1a 1a 1.1o 1.1a", "yes closed yes open yes no closed yes"),
        # A probe that failed: the next pause is twice as long, four seconds at most.
        (
            "0a 0f 0a 0f 1a 1f 2.9a 3a 3f 6.9a 7a 7f 10.9a 11a",
            "yes closed yes open yes open no yes open no yes open no yes",
        ),
        # A probe nobody reports on blocks no longer than `probe_s`; one that was given up not at all.
        ("0a 0f 0a 0f 1a 5.9a 6a", "yes closed yes open yes no yes"),
        ("0a 0f 0a 0f 1a 1g 1a", "yes closed yes open yes half_open yes"),
        # After one good probe the first failures open again, and the pause goes on growing.
        ("0a 0f 0a 0f 1a 1o 1a 1f 1a 1f 2.9a 3a", "yes closed yes open yes closed yes closed yes open no yes"),
    ],
)
def test_what_it_says(script: str, said: str) -> None:
    assert " ".join(play(made(), script)) == said


def test_an_answer_from_before_says_nothing() -> None:
    """A call that began before the breaker opened neither closes it nor spoils the probe."""
    breaker = made()
    old = breaker.allow(0)
    assert old is not None
    for _ in range(2):
        permit = breaker.allow(0)
        assert permit is not None
        breaker.failed(permit, 0)
    breaker.ok(old)
    assert breaker.state == "open"
    probe = breaker.allow(1)
    assert probe is not None
    breaker.failed(old, 1)
    breaker.ok(old)
    assert breaker.state == "half_open"
    assert breaker.allow(1) is None
    breaker.ok(probe)
    assert (breaker.state, breaker.opened) == ("closed", 1)


def test_a_whole_good_window_lets_pauses_start_over() -> None:
    """After four good calls the next opening pauses for the first time again."""
    breaker = made()
    play(breaker, "0a 0f 0a 0f 1a 1f 3a 3o 3a 3o 3a 3o 3a 3o 3a 3o 3a 3f 3a 3f")
    assert breaker.state == "open"
    assert breaker.wait_s(3) == pytest.approx(1.0)
    assert made().wait_s(0) == 0


def test_the_pause_is_jittered() -> None:
    """Uniform over the upper half of its length: processes that opened together do not return together."""
    waits = []
    for draw in (0.0, 0.5, 1.0):
        breaker = Breaker(failures=1, window=1, first_pause_s=2.0, jitter=lambda draw=draw: draw)  # type: ignore[misc]
        play(breaker, "0a 0f")
        waits.append(breaker.wait_s(0))
    assert waits == [1.0, 1.5, 2.0]
