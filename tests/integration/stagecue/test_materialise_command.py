"""`stagecue materialise` on a real installation's database: what it writes, what it says, what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from contract.runtime.runner import Readiness
from contract.runtime.system_clock import SystemClock
from dgs.adapters.materialised_file import FileMaterialised
from dgs.shelf import catalog_digest
from dgs.sources.catalog import DEMO_CATALOG, load_catalog
from dgs.sources.profiles import SeededProfiles
from message_producer.app import open_producer
from message_producer.model import Audience, EventDraft, Stage, WriteContext
from message_producer.settings import ProducerSettings
from stagecue.cli import cli

KEYS = {"profiles", "seconds", "rss_bytes_max", "resumed", "done_before", "written", "left_out"}


async def _plan_the_night(data_dir: Path) -> None:
    night = EventDraft(
        event_id="night",
        title="Night",
        starts_at=SystemClock().now_ms() + 3_600_000,
        stages=(Stage(key="upcoming", offset_ms=-60_000), Stage(key="live")),
        audiences=(Audience(name="us", regions=("US",)),),
    )
    settings = ProducerSettings(data_dir=data_dir)
    async with open_producer(settings, clock=SystemClock(), readiness=Readiness()) as producer:
        await producer.operations.create(night, WriteContext(actor="op@example.org"))


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command sets up logging for its process, which here is everybody's."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("night")
    asyncio.run(_plan_the_night(data_dir))
    return data_dir


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["materialise", *arguments], env={"STAGECUE_KV_URL": "", "DGS_PROFILES_PATH": None})


def made(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    assert found.keys() == KEYS
    return found


async def _profiles_in(directory: Path, wanted: list[str]) -> set[str]:
    digest = catalog_digest(load_catalog(DEMO_CATALOG).titles)
    store = FileMaterialised(directory, SystemClock(), catalog=lambda: digest)
    found = await store.read("event:night@us", 1, wanted)
    await store.aclose()
    assert all({key for key, _ in picks.layout.stages} >= {"upcoming", "live"} for picks in found.values())
    return set(found)


def test_it_makes_the_picks_says_so_and_makes_none_twice(installation: Path) -> None:
    """Sixty profiles, of which those in the US are served; the second run finds all done, a fresh one does not."""
    profiles = SeededProfiles(load_catalog(DEMO_CATALOG))
    wanted = [f"p-{number}" for number in range(60)]
    american = {each for each in wanted if profiles.place(each).region == "US"}
    asked = ("night", "--profiles", "60", "--workers", "1", "--data-dir", str(installation))
    first = made(run(*asked, "--json"))
    assert (first["profiles"], first["resumed"], first["written"]) == (60, False, len(american))
    assert first["left_out"] == 60 - len(american)
    assert isinstance(first["rss_bytes_max"], int)
    assert first["rss_bytes_max"] > 2**20
    assert asyncio.run(_profiles_in(installation / "materialised", wanted)) == american
    again = made(run(*asked, "--json"))
    assert (again["resumed"], again["done_before"], again["written"]) == (True, 60, 0)
    fresh = run(*asked, "--fresh")
    assert fresh.exit_code == 0
    assert f"{len(american)} of 60 profiles" in fresh.stdout
    assert "left out" in fresh.stdout


def test_a_directory_of_its_own_and_a_file_of_ids(
    installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGS_MATERIALISED_PATH", str(tmp_path / "picks"))
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"p-{number}\n" for number in range(20)))
    found = made(run("night", "--profiles", str(ids), "--workers", "1", "--data-dir", str(installation), "--json"))
    assert found["profiles"] == 20
    assert len(asyncio.run(_profiles_in(tmp_path / "picks", [f"p-{each}" for each in range(20)]))) == found["written"]


def test_without_a_list_it_is_the_profiles_with_histories(
    installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of DGS_PROFILES_PATH; p-1 lives where the event is not shown."""
    title = load_catalog(DEMO_CATALOG).titles[0].id
    histories = tmp_path / "histories.csv"
    histories.write_text(f"title_id,profile_id,region\n{title},p-0,US\n{title},p-1,DE\n{title},p-2,US\n")
    monkeypatch.setenv("DGS_PROFILES_PATH", str(histories))
    monkeypatch.setenv("DGS_MATERIALISED_PATH", str(tmp_path / "picks"))
    result = CliRunner().invoke(
        cli, ["materialise", "night", "--workers", "1", "--data-dir", str(installation), "--json"]
    )
    found = made(result)
    assert (found["profiles"], found["written"], found["left_out"]) == (3, 2, 1)
    assert asyncio.run(_profiles_in(tmp_path / "picks", ["p-0", "p-1", "p-2"])) == {"p-0", "p-2"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cup", "--profiles", "10"), "EVENT: no event 'cup' is planned there; planned: night"),
        (("Not An Event", "--profiles", "10"), "EVENT: 'Not An Event' is not a valid name"),
        (("night",), "--profiles: these profiles have no list"),
        (("night", "--profiles", "0"), "--profiles: 0 profiles"),
        (("night", "--profiles", "nowhere.txt"), "--profiles: nowhere.txt: cannot be read"),
        (("night", "--profiles", "5", "--kv", "redis://127.0.0.1:1"), "no Redis answers at 127.0.0.1:1"),
        (("night", "--profiles", "5", "--kv", "http://x"), "not the address of a Redis"),
    ],
)
def test_what_a_person_may_get_wrong_is_one_line(installation: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments, "--data-dir", str(installation))
    assert result.exit_code == 2
    [line] = [line for line in result.stderr.splitlines() if line.startswith("stagecue: ")]
    assert words in line
    assert result.stdout == ""


def test_a_bad_line_is_named(installation: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("p-1\nnot an id\n")
    result = run("night", "--profiles", str(ids), "--data-dir", str(installation))
    assert result.exit_code == 2
    assert f"{ids}, line 2: 'not an id' is not a profile id" in result.stderr


def test_a_directory_without_an_installation_is_left_alone(tmp_path: Path) -> None:
    result = run("night", "--profiles", "5", "--data-dir", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert f"no installation in {tmp_path / 'none'}" in result.stderr
    assert not (tmp_path / "none").exists()


def test_a_directory_nobody_can_write_to_ends_it_and_says_where(
    installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DGS_MATERIALISED_PATH", str(tmp_path / "file" / "picks"))
    result = run("night", "--profiles", "5", "--workers", "1", "--data-dir", str(installation))
    assert result.exit_code in (1, 2)
    assert "DGS_MATERIALISED_PATH" in result.stderr
