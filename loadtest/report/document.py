"""A page that is one file and asks nobody for anything: its own style, its own script, the records it shows."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Final

from loadtest.report.markup import Markup, element, embedded_json, joined

__all__ = ["RECORD_ID", "document"]

RECORD_ID: Final = "record"
"""Of the element with the run's record; a page with two runs has `record-a` and `record-b`."""


@cache
def _asset(name: str) -> str:
    return files("loadtest.report").joinpath(name).read_text()


def document(
    title: str, *content: object, cls: str = "", records: Sequence[tuple[str, str]] = (), interactive: bool = False
) -> str:
    """The whole file. `records`: (element id, JSON) pairs the page carries; `interactive`: with values under the
    pointer.

    Its policy lets it load nothing, and run nothing but the script it was written with.
    """
    style, script = _asset("page.css"), _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = (
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content=policy + (f"; script-src 'sha256-{digest}'" if interactive else ""),
        ),
        element("title", title),
        element("style", Markup(style)),
    )
    carried = [
        element("script", embedded_json(text), type="application/json", id=record_id) for record_id, text in records
    ]
    body = element(
        "body", element("main", *content), *carried, element("script", Markup(script)) if interactive else "",
        cls=cls or None,
    )  # fmt: skip
    return f'<!doctype html>\n<html lang="en">{element("head", *head)}{joined([body])}</html>\n'
