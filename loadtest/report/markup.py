"""HTML in which every text is escaped unless it says that it is markup already. Pure."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Final

__all__ = ["Markup", "element", "embedded_json", "escaped", "joined"]

_VOID: Final = frozenset({"meta", "br", "hr", "col"})
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn the direction of text (a name could make a line read as another), and halves of
characters, which no file can hold."""


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """As it is when it is markup; else its text, made harmless, also inside quotes."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(_CONTROLS.sub("\ufffd", str(text)), quote=True))


def joined(parts: Iterable[object], between: str = "") -> Markup:
    """All parts, escaped where they are no markup."""
    return Markup(between.join(escaped(part) for part in parts))


def element(name: str, /, *content: object, **attributes: object) -> Markup:
    """One element. `cls` is the class, `_` in names is `-`.

    None and False leave an attribute out, True stands without a value.
    """
    written = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
        written.append(label if value is True else f'{label}="{escaped(value)}"')
    head = f"<{' '.join(written)}>"
    return Markup(head if name in _VOID else f"{head}{joined(content)}</{name}>")


def embedded_json(text: str) -> Markup:
    """JSON that may stand inside a script element: nothing in it can end one."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
