"""Dressed titles: right for the device, made once, bounded."""

from __future__ import annotations

from dgs.artwork import artwork_for
from dgs.catalogs import CatalogIndex
from dgs.dressing import Wardrobe, dress
from dgs.model import DeviceContext, DeviceKind, ScreenClass
from dgs.sources.catalog import Catalog


def test_a_title_is_dressed_once_per_look(demo_catalog: Catalog) -> None:
    """The same object again for the same kind, screen and picture language; another for another."""
    index = CatalogIndex(demo_catalog.titles[:20])
    wardrobe = Wardrobe(entries=100, base_url="https://cdn.test")
    german = DeviceContext(kind=DeviceKind.PHONE, screen=ScreenClass.SMALL, locale="de")
    shown = wardrobe.shower(index, german)(3)
    assert shown == dress(index.titles[3], german, base_url="https://cdn.test")
    assert shown.artwork == artwork_for(index.titles[3], german, base_url="https://cdn.test")
    assert wardrobe.shower(index, german)(3) is shown
    french = DeviceContext(kind=DeviceKind.PHONE, screen=ScreenClass.SMALL, locale="fr")
    assert wardrobe.shower(index, french)(3) != shown
    # Pictures have no Japanese captions: the English ones serve.
    japanese = DeviceContext(kind=DeviceKind.PHONE, screen=ScreenClass.SMALL, locale="ja")
    english = DeviceContext(kind=DeviceKind.PHONE, screen=ScreenClass.SMALL, locale="en")
    assert wardrobe.shower(index, japanese)(3) is wardrobe.shower(index, english)(3)


def test_the_wardrobe_is_bounded(demo_catalog: Catalog) -> None:
    """What is asked for longest ago goes; one look alone is emptied when it grows too large."""
    index = CatalogIndex(demo_catalog.titles[:20])
    wardrobe = Wardrobe(entries=30)
    for kind in DeviceKind:
        for screen in ScreenClass:
            show = wardrobe.shower(index, DeviceContext(kind=kind, screen=screen, locale="en"))
            for place in range(20):
                show(place)
            assert len(wardrobe) <= 50
    small = Wardrobe(entries=5)
    for place in range(20):
        small.shower(index, DeviceContext(locale="en"))(place)
        assert len(small) <= 6
