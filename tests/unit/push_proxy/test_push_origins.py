"""Origins: whole labels, exact scheme and port, and lists that say what is wrong with them."""

from __future__ import annotations

import pytest

from contract.errors import InvalidRequest
from push_proxy.origins import ANY_ORIGIN, parse_origins
from push_proxy.settings import PushSettings


@pytest.mark.parametrize(
    ("rules", "origin", "allowed"),
    [
        ("https://*.example.com", "https://a.example.com", True),
        ("https://*.example.com", "https://a.b.example.com", True),
        ("https://*.example.com", "https://A.Example.COM", True),
        ("https://*.example.com", "https://a.example.com:443", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://badexample.com", False),
        ("https://*.example.com", "https://bad-example.com", False),
        ("https://*.example.com", "https://example.com.evil.org", False),
        ("https://*.example.com", "https://a.example.com.evil.org", False),
        ("https://*.example.com", "https://a.example.com.", False),
        ("https://*.example.com", "https://.example.com", False),
        ("https://*.example.com", "https://a..example.com", False),
        ("https://*.example.com", "https://*.example.com", False),
        ("https://*.example.com", "http://a.example.com", False),
        ("https://*.example.com", "https://a.example.com:8443", False),
        ("https://*.example.com", "https://a.example.com@evil.org", False),
        ("https://*.example.com", "https://evil.org#.example.com", False),
        ("https://*.example.com", "https://evil.org/a.example.com", False),
        ("https://*.example.com", "https://evil.org\\.example.com", False),
        ("https://*.example.com", "https://a.example.com/", False),
        ("https://*.example.com", "https://a.example.com, https://evil.org", False),
        ("https://*.example.com", "https://evil.org https://a.example.com", False),
        ("https://*.example.com", "a.example.com", False),
        ("https://*.example.com", "null", False),
        ("https://*.example.com", "", False),
        ("https://*.example.com", "https://" + "a." * 300 + "example.com", False),
        ("https://*.example.com", "https://a.example.com\r\n", False),
        ("https://*.example.com", "https://\u0430.example.com", False),
        ("https://*.example.com:8443", "https://a.example.com:8443", True),
        ("https://*.example.com:8443", "https://a.example.com", False),
        ("https://tv.example.com", "https://tv.example.com", True),
        ("https://tv.example.com:443", "https://tv.example.com", True),
        ("http://tv.example.com", "http://tv.example.com:80", True),
        ("https://tv.example.com", "https://a.tv.example.com", False),
        ("http://localhost:3000", "http://localhost:3000", True),
        ("http://localhost:3000", "http://localhost:3001", False),
        ("http://*.localhost", "http://app.localhost", True),
        ("http://[::1]:3000", "http://[::1]:3000", True),
        ("http://192.0.2.1", "http://192.0.2.1", True),
        ("https://xn--mnchen-3ya.de", "https://xn--mnchen-3ya.de", True),
        ("null", "null", True),
        ("null", "NULL", False),
        ("", "https://tv.example.com", False),
        ("", "null", False),
        ("*", "https://anything.example", True),
        ("*", "null", True),
        ("https://a.example, https://*.b.example\n null", "https://x.b.example", True),
        ("https://a.example, https://*.b.example\n null", "https://a.example", True),
        ("https://a.example, https://*.b.example\n null", "null", True),
        ("https://a.example, https://*.b.example\n null", "https://c.example", False),
    ],
)
def test_who_may_connect(rules: str, origin: str, allowed: bool) -> None:
    """Each trick somebody has played on an allow-list by substring, and what ought to pass."""
    assert parse_origins(rules).allows(origin) is allowed


def test_the_default_allows_every_page() -> None:
    """The token admits; a page without one is nobody."""
    assert parse_origins(PushSettings().allowed_origins).allows("https://any.example")
    assert ANY_ORIGIN.allows_any


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("example.com", "is no origin"),
        ("https://example.com/", "is no origin"),
        ("https://example.com/path", "is no origin"),
        ("https://user@example.com", "is no origin"),
        ("https://", "is no origin"),
        ("https://example.com:99999", "is no origin"),
        ("https://exa mple.com", "is no origin"),
        ("https://a.*.example.com", "is no origin"),
        ("https://*", "is no origin"),
        ("https://**.example.com", "is no origin"),
        ("https://*example.com", "is no origin"),
        ("wss://example.com", "scheme wss"),
        ("ftp://example.com", "scheme ftp"),
        ("https://*.com", "every name under com"),
        ("https://*.192.0.2.1", "before an address"),
        ("https://m\u00fcnchen.de", "xn--"),
    ],
)
def test_a_wrong_rule_is_named(entry: str, why: str) -> None:
    """Field, entry, what is wrong, and how it would be right; the settings say the same at the start."""
    with pytest.raises(InvalidRequest, match=r"https://\*\.example\.com") as wrong:
        parse_origins(f"https://good.example {entry}")
    assert why in str(wrong.value)
    assert wrong.value.field == "PUSH_ALLOWED_ORIGINS"
    with pytest.raises(ValueError, match="allowed_origins"):
        PushSettings(allowed_origins=entry)
