"""Whose picks are made: a number of generated profiles, ids in memory, or a file of ids, read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final, Protocol

from contract.errors import InvalidRequest
from dgs.materialise.job import CHUNK_PROFILES
from dgs.sources.profiles import MAX_PROFILE_ID, check_profile_id

__all__ = ["MAX_PROFILES", "FileIds", "GeneratedIds", "KnownIds", "ProfileIds"]

MAX_PROFILES: Final = 50_000_000
_HEADER: Final = "profile_id"
_LONGEST_LINE: Final = 4 * MAX_PROFILE_ID


class ProfileIds(Protocol):
    """An ordered list that need not be in memory."""

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """Another one for another list."""
        ...

    def between(self, start: int, stop: int) -> Sequence[str]:
        """Those places of the list; blocking. Raises InvalidRequest for a file that changed."""
        ...


class GeneratedIds:
    """`p-0`, `p-1` and so on: the names simulated devices have."""

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MAX_PROFILES:
            raise InvalidRequest(f"{count} profiles", field="--profiles", rule=f"1 to {MAX_PROFILES}")
        self._count = count

    def __len__(self) -> int:
        return self._count

    @property
    def digest(self) -> str:
        return f"p-0 to p-{self._count - 1}"

    def between(self, start: int, stop: int) -> Sequence[str]:
        return [f"p-{number}" for number in range(start, min(stop, self._count))]


class KnownIds:
    """Ids that are in memory anyway."""

    def __init__(self, ids: Iterator[str]) -> None:
        self._ids = tuple(ids)
        if not self._ids:
            raise InvalidRequest("no profile at all", field="--profiles")
        self.digest = _hash(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def between(self, start: int, stop: int) -> Sequence[str]:
        return self._ids[start:stop]


class FileIds:
    """One id per line, blank lines aside; or a CSV whose first column is `profile_id`, rows of a profile together.

    The file is gone through once, blocking, about a second per million lines; in memory is where every chunk begins.
    """

    def __init__(self, path: Path, *, chunk: int = CHUNK_PROFILES) -> None:
        """Raises InvalidRequest naming file and line: unreadable, not UTF-8, not an id, no id at all."""
        self._path = path
        self._chunk = chunk
        self._starts: list[int] = []
        self._csv = False
        self._count = 0
        digest = blake2b(digest_size=16)
        for number, (at, profile_id) in enumerate(self._ids(0, first=True)):
            if number == MAX_PROFILES:
                raise self._refusal(f"more than {MAX_PROFILES} profiles")
            if number % chunk == 0:
                self._starts.append(at)
            digest.update(profile_id.encode() + b"\n")
            self._count = number + 1
        if not self._count:
            raise self._refusal("no profile at all")
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return self._count

    def between(self, start: int, stop: int) -> Sequence[str]:
        """Fast where `start` is the beginning of a chunk."""
        stop = min(stop, self._count)
        found: list[str] = []
        skip = start % self._chunk
        for _, profile_id in self._ids(self._starts[start // self._chunk], first=False):
            if skip:
                skip -= 1
                continue
            if len(found) == stop - start:
                break
            found.append(profile_id)
        if len(found) < stop - start:
            raise self._refusal("it became shorter meanwhile")
        return found

    def _ids(self, place: int, *, first: bool) -> Iterator[tuple[int, str]]:
        """(place of the line, id) of every line from `place` on that has one."""
        last = ""
        try:
            with self._path.open("rb") as file:
                file.seek(place)
                number = 0
                at = place
                while line := file.readline(_LONGEST_LINE if not self._csv else -1):
                    number += 1
                    text = self._text(line, number if first else None)
                    if first and number == 1 and text.partition(",")[0].strip() == _HEADER:
                        self._csv = True
                        text = ""
                    elif self._csv:
                        text = text.partition(",")[0].strip().strip('"')
                    if text and text != last:
                        last = text
                        self._check(text, number if first else None)
                        yield at, text
                    at += len(line)
        except OSError as exc:
            raise self._refusal(f"cannot be read: {exc.strerror}") from exc

    def _text(self, line: bytes, number: int | None) -> str:
        try:
            return line.decode().strip().lstrip("\ufeff")
        except UnicodeDecodeError as exc:
            raise self._refusal(f"byte {exc.start + 1} is not UTF-8", number) from exc

    def _check(self, profile_id: str, number: int | None) -> None:
        try:
            check_profile_id(profile_id)
        except InvalidRequest as exc:
            raise self._refusal(f"{exc.message} ({exc.rule})", number) from exc

    def _refusal(self, why: str, line: int | None = None) -> InvalidRequest:
        where = f"{self._path}, line {line}" if line is not None else str(self._path)
        return InvalidRequest(f"{where}: {why}", field="--profiles")


def _hash(ids: Sequence[str]) -> str:
    digest = blake2b(digest_size=16)
    for profile_id in ids:
        digest.update(profile_id.encode() + b"\n")
    return digest.hexdigest()
