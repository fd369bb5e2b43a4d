"""Every metric that is described is exported by a composed DGS, and stands in the document with its meaning."""

from __future__ import annotations

from pathlib import Path

from dgs_world import World
from prometheus_client.parser import text_string_to_metric_families

from dgs.metrics import METRICS, PREFIX

PAGE = Path(__file__).parents[3] / "docs" / "dgs.md"


async def test_what_is_described_is_exported(world: World) -> None:
    """After a map, a refusal of GraphQL's and a page: every family, with the labels it promises."""
    await world.plan()
    await world.prefetch()
    assert (await world.http.post("/graphql", json={"query": "{ nope }"})).status_code == 200
    await world.http.get("/metrics")
    text = (await world.http.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    # A chain of sources counts profiles; here the catalog's own ranking is the only one.
    assert {PREFIX + each.name for each in METRICS} - set(families) == {PREFIX + "source_profiles"}
    for each in METRICS:
        family = families.get(PREFIX + each.name)
        if family is None:
            continue
        assert (family.type, family.documentation) == (each.kind, each.meaning)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(each.labels), sample
    answered = {
        (sample.labels["class"], sample.labels["status"]): sample.value
        for sample in families[PREFIX + "answers"].samples
        if sample.name.endswith("_total")
    }
    assert sum(answered.values()) == 2, answered


def test_the_document_lists_them_all() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{PREFIX}")]
    expected = [
        f"| `{PREFIX}{each.name}{'_total' if each.kind == 'counter' else ''}` | {each.kind} | "
        f"{', '.join(f'`{label}`' for label in each.labels)} | {each.meaning} |"
        for each in METRICS
    ]
    assert rows == expected
