"""Settings refuse relations that cannot work; the node client refuses addresses where no node may live."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from contract.runtime.settings import settings_table
from message_router.adapters.node_link_client import address_allowed
from message_router.settings import RouterSettings


def test_defaults_hold_the_numbers_of_the_rules() -> None:
    settings = RouterSettings()
    assert (settings.node_deadline_s, settings.store_patience_s, settings.commit_interval_s) == (0.5, 0.2, 0.2)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"silence_s": 3.0}, "silence_s"),
        ({"retry_first_s": 2.0}, "retry_first_s"),
        ({"poll_max_entries": 30_000}, "poll_max_entries"),
        ({"node_deadline_s": 0.0}, "node_deadline_s"),
        ({"allowed_networks": ("here",)}, "allowed_networks"),
    ],
)
def test_impossible_relations_are_refused_by_name(given: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        RouterSettings(**given)  # type: ignore[arg-type]


def test_every_setting_says_what_it_means() -> None:
    assert all(meaning for *_, meaning in settings_table(RouterSettings))


@pytest.mark.parametrize("address", ["127.0.0.1:9000", "[::1]:9000", "127.8.8.8:1"])
def test_addresses_inside_the_networks(address: str) -> None:
    assert address_allowed(address, ("127.0.0.0/8", "::1/128"))


@pytest.mark.parametrize(
    "address", ["10.0.0.1:9000", "localhost:9000", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "", "[::2]:1", ":1"]
)
def test_other_addresses_and_names(address: str) -> None:
    assert not address_allowed(address, ("127.0.0.0/8", "::1/128"))
