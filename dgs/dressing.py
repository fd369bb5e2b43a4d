"""Titles as a device shows them: dressed once per kind of picture, language and catalog, and remembered. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from dgs.artwork import art_language, artwork_for
from dgs.catalogs import CatalogIndex
from dgs.model import DeviceContext, DeviceKind, ScreenClass, ShownTitle, Title

__all__ = ["Wardrobe", "dress"]


def dress(title: Title, device: DeviceContext, *, base_url: str = "") -> ShownTitle:
    """The title with the pictures this device needs, their URLs below `base_url`."""
    return ShownTitle(
        id=title.id,
        name=title.name,
        synopsis=title.synopsis,
        year=title.year,
        maturity=title.maturity,
        genres=title.genres,
        runtime_minutes=title.runtime_minutes,
        artwork=artwork_for(title, device, base_url=base_url),
    )


class _Rail(dict[int, ShownTitle]):
    """Place in the catalog -> the title dressed; fills itself."""

    def __init__(self, index: CatalogIndex, device: DeviceContext, base_url: str) -> None:
        self._titles = index.titles
        self._device = device
        self._base_url = base_url

    def __missing__(self, place: int) -> ShownTitle:
        shown = self[place] = dress(self._titles[place], self._device, base_url=self._base_url)
        return shown


class Wardrobe:
    """Dressed titles, about `entries` at most: of the kinds of device asked for longest ago, all are given up."""

    def __init__(self, *, entries: int, base_url: str = "") -> None:
        self._entries = entries
        self._base_url = base_url
        self._rails: OrderedDict[tuple[str, DeviceKind, ScreenClass, str], _Rail] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._rails.values()))

    def shower(self, index: CatalogIndex, device: DeviceContext) -> Callable[[int], ShownTitle]:
        """Place in this catalog -> the title for this device; valid for one answer."""
        key = (index.digest, device.kind, device.screen, art_language(device.locale))
        rail = self._rails.get(key)
        if rail is None:
            while self._rails and len(self) >= self._entries:
                self._rails.popitem(last=False)
            rail = self._rails[key] = _Rail(index, device, self._base_url)
        elif len(rail) >= self._entries:
            rail.clear()
        self._rails.move_to_end(key)
        return rail.__getitem__
