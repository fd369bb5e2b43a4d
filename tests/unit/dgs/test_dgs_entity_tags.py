"""If-None-Match is a list of tags, not a text to search in."""

from __future__ import annotations

import pytest

from dgs.entity_tags import names_tag


@pytest.mark.parametrize(
    "said",
    [b'W/"a1"', b'"a1"', b'"b", W/"a1"', b'"x,y" ,"a1"', b',, "a1"', b"*", b" * ", b'"b",\t"a1" ,', b'"\xe9","a1"'],
)
def test_a_tag_is_named_weakly_alone_or_in_a_list(said: bytes) -> None:
    assert names_tag(said, b"a1")


@pytest.mark.parametrize(
    "said",
    [
        None, b"", b"a1", b'"b"', b'w/"a1"', b'"a1', b'"b"a1"', b'"x "a1" y"', b'"b" "a1"', b'"a1" c', b'"b", *',
        b'"a1b"', b'"x, W/"a1", y"',
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_not(said: bytes | None) -> None:
    """In another tag's text, unquoted, cut off, or behind what is no list."""
    assert not names_tag(said, b"a1")


def test_a_tag_with_a_comma_is_one() -> None:
    assert names_tag(b'"x, y", "z"', b"x, y") is False, "no blank may stand in a tag"
    assert names_tag(b'"z","x,y"', b"x,y")
    assert not names_tag(b'"x,y"', b"y")
