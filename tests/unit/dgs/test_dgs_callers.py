"""Whose token it is, and what it opens: the rules apart from HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.errors import BroadcastSystemError, Forbidden, Unauthorized
from contract.tokens import KeyRing, ProfileClaims
from dgs import http_api
from dgs.callers import ANYBODY, Caller, Callers, TokenMode, caller_of, check_profile
from dgs.graphql_errors import CODES, to_error


def verify(token: str) -> ProfileClaims:
    if token != "good":
        raise Unauthorized("not a valid token", field="token")
    return ProfileClaims(sub="p-1", exp=1)


@pytest.mark.parametrize("mode", ["required", "optional"])
@pytest.mark.parametrize("shown", [b"Bearer good", b"bearer good", b"BEARER good"])
def test_a_good_token_names_its_profile(mode: TokenMode, shown: bytes) -> None:
    caller = caller_of({b"authorization": shown}, verify=verify, mode=mode)
    check_profile(caller, "p-1")
    with pytest.raises(Forbidden) as refused:
        check_profile(caller, "p-2", field="profileId")
    assert refused.value.field == "profileId"


@pytest.mark.parametrize(
    "shown", [b"", b"good", b"Bearer", b"Bearer  good", b"Basic good", b"Bearer bad", b"Bearer \xff"]
)
def test_what_is_shown_must_be_good_unless_nobody_is_asked(shown: bytes) -> None:
    for mode in ("required", "optional"):
        with pytest.raises(Unauthorized):
            caller_of({b"authorization": shown}, verify=verify, mode=mode)  # type: ignore[arg-type]
    assert caller_of({b"authorization": shown}, verify=verify, mode="off") is ANYBODY


def test_who_shows_nothing_gets_what_is_nobodys() -> None:
    check_profile(caller_of({}, verify=verify, mode="optional"), "p-1")
    check_profile(caller_of({}, verify=verify, mode="off"), "p-1")
    with pytest.raises(Unauthorized) as refused:
        check_profile(caller_of({}, verify=verify, mode="required"), "p-1")
    assert refused.value.field == "Authorization"


def test_callers_of_a_service_by_its_clock() -> None:
    ring = KeyRing("stagecue.profile", {"k1": b"p" * 32}, "k1")
    token = {b"authorization": b"Bearer " + ring.sign(ProfileClaims(sub="p-1", exp=100)).encode()}
    now_ms = 50_000
    callers = Callers(ring, "required", lambda: now_ms)
    assert callers.caller(token) == Caller("p-1")
    callers.check(token, "p-1")
    with pytest.raises(Forbidden):
        callers.check(token, "p-2")
    now_ms = 106_000
    with pytest.raises(Unauthorized, match="expired 6 s ago"):
        callers.check(token, "p-1")
    Callers(None, "optional", lambda: 0).check({b"authorization": b"Bearer x"}, "p-1")
    with pytest.raises(ValueError, match="no profile ring"):
        Callers(None, "required", lambda: 0)


def test_every_error_has_a_code_that_clients_know() -> None:
    """Ours and the contract's, down to those only other services raise: by the nearest kind that is told of."""
    assert http_api  # its errors are of the tree
    kinds = [BroadcastSystemError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        if kind.__init__ is BroadcastSystemError.__init__:
            assert to_error(kind("x"))["extensions"]["code"] in CODES
    assert len(kinds) > 15


def test_every_code_is_explained_where_device_teams_read() -> None:
    text = (Path(http_api.__file__).parent.parent / "docs" / "dgs.md").read_text()
    explained = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert explained >= CODES
