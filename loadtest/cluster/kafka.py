"""A Kafka broker of one's own: one KRaft node from Maven's repository, on the settings that are shipped."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Final
from xml.etree import ElementTree

from contract.runtime.kafka_probe import NotKafka, is_kafka
from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.member import Member, program
from loadtest.cluster.ports import reserve_ports

__all__ = ["KafkaBroker", "cluster_id", "kafka_jars"]

SHIPPED: Final = Path(__file__).parents[2] / "deploy" / "kafka"
"""Where the pom and the properties are."""
_HOST: Final = "127.0.0.1"
_HEAP: Final = "320m"
_RESOLVE_WITHIN_S: Final = 300.0
_FORMAT_WITHIN_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.05
_PROBE_WITHIN_S: Final = 1.0
_JVM: Final = (
    f"-Xms{_HEAP}",
    f"-Xmx{_HEAP}",
    # A broker this small is quickest with the simplest collector and compiler; a start costs half the time.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
)


class KafkaBroker(Member):
    """A cluster member: broker and controller in one process. Its data outlives a kill, a stop and a start.

    `properties` are appended to the shipped ones, and may name more listeners.
    """

    role: ClassVar[str] = "kafka"
    ready_within_s: ClassVar[float] = 60.0

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        *,
        name: str = "kafka",
        properties: Sequence[str] = (),
        controller_port: int | None = None,
    ) -> None:
        """Nothing is started yet. `port` None: a free one, kept from then on; the controller has the one after."""
        super().__init__(name, directory)
        if port is None:
            with reserve_ports(1) as ports:
                port = ports[0]
        self.port = port
        self.controller_port = port + 1 if controller_port is None else controller_port
        self._properties = tuple(properties)
        self._jars: Path | None = None

    @property
    def bootstrap_servers(self) -> str:
        """What `--kafka` and KAFKA_BOOTSTRAP_SERVERS want."""
        return f"{_HOST}:{self.port}"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def command(self) -> Sequence[str]:
        return [*self._java(), "kafka.Kafka", str(self._settings)]

    async def prepare(self) -> None:
        self._jars = await kafka_jars()
        self._settings.write_text((SHIPPED / "server.properties").read_text() + self._own_settings())
        if (self.data / "meta.properties").exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)  # half of one, from a format that was killed
        cluster = cluster_id(lambda: uuid.uuid4().bytes)
        await _run(
            [*self._java(), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._settings)],
            self.directory / "format.log",
            within_s=_FORMAT_WITHIN_S,
            what=f"formatting {self.data}",
        )

    async def until_ready(self) -> None:
        while True:
            try:
                await is_kafka(_HOST, self.port, timeout_s=_PROBE_WITHIN_S)
            except (OSError, TimeoutError, NotKafka):
                await asyncio.sleep(_LOOK_EVERY_S)
            else:
                return

    @property
    def _settings(self) -> Path:
        return self.directory / "server.properties"

    def _java(self) -> list[str]:
        assert self._jars is not None, "prepare() comes first"
        java = program("java", "openjdk-17-jre-headless")
        logging = f"-Dlog4j2.configurationFile={(SHIPPED / 'log4j2.properties').as_uri()}"
        return [java, *_JVM, logging, "-cp", f"{self._jars}/*"]

    def _own_settings(self) -> str:
        listener = f"PLAINTEXT://{_HOST}:{self.port}"
        own = [
            "",
            "# -- This place --",
            f"log.dirs={self.data}",
            f"listeners={listener},CONTROLLER://{_HOST}:{self.controller_port}",
            f"advertised.listeners={listener}",
            f"controller.quorum.voters=1@{_HOST}:{self.controller_port}",
            *self._properties,
            "",
        ]
        return "\n".join(own)


async def kafka_jars() -> Path:
    """The broker's class path, resolved by Maven once and kept. Raises CouldNotRun naming what is missing.

    Several processes may ask at once: each resolves into a folder of its own, and the first to finish gives the name.
    """
    pom = SHIPPED / "pom.xml"
    if not pom.is_file():
        raise CouldNotRun(f"{pom} is missing: the broker's class path is resolved from a checkout of the repository")
    kept = _cache() / f"kafka-{_version(pom)}"
    if kept.is_dir():
        return kept
    program("java", "openjdk-17-jre-headless")
    maven = program("mvn", "maven")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=f"{kept.name}.", dir=kept.parent))
    except OSError as exc:
        raise CouldNotRun(f"{kept.parent} cannot be used ({exc.strerror}); set XDG_CACHE_HOME") from exc
    try:
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={making}"]
        await _run(
            [maven, "-q", "-B", "-f", str(pom), *goal],
            kept.parent / "maven.log",
            within_s=_RESOLVE_WITHIN_S,
            what="resolving Kafka with Maven (it needs a repository it can reach)",
        )
        _name(making, kept)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return kept


def _cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "stagecue"


def _version(pom: Path) -> str:
    space = "{http://maven.apache.org/POM/4.0.0}"
    found = ElementTree.parse(pom).findtext(f"{space}properties/{space}kafka.version")  # noqa: S314 - our own file
    assert found, f"{pom} does not say kafka.version"
    return found


async def _run(command: Sequence[str], log: Path, *, within_s: float, what: str) -> None:
    """Run a command to its end. Raises CouldNotRun with its log's end."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        try:
            async with asyncio.timeout(within_s):
                code = await process.wait()
        except TimeoutError:
            raise CouldNotRun(f"{what} took longer than {within_s:.0f} s; see {log}") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if code != 0:
        raise CouldNotRun(f"{what} failed:\n{_end_of(log)}")


def _name(making: Path, kept: Path) -> None:
    """Give what was made its name, all at once."""
    try:
        making.rename(kept)
    except OSError:
        if not kept.is_dir():  # else somebody else was first, with the same
            raise


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:])


def cluster_id(random_bytes: Callable[[], bytes]) -> str:
    """A name for a new cluster, as Kafka makes them: never one that its own tools would take for an option."""
    while (name := urlsafe_b64encode(random_bytes()).decode().rstrip("=")).startswith("-"):
        continue
    return name
