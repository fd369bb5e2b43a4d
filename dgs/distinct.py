"""How many different answers there are per stage: exactly while they are few, then estimated. Pure.

Beyond `EXACT` values a HyperLogLog of 2^12 registers counts on (Flajolet, Fusy, Gandouet, Meunier: HyperLogLog, 2007):
standard error 1.04 / sqrt(4096) = 1.6 %, 4 KB per stage. With 64-bit hashes no correction for large counts is needed.
Counting is per process: hashes are Python's own, keyed differently in each.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from dgs.picks import Picks

__all__ = ["EXACT", "DistinctAnswers", "DistinctCount"]

EXACT: Final = 4_096
_BITS: Final = 12
_REGISTERS: Final = 1 << _BITS
_ALPHA: Final = 0.7213 / (1 + 1.079 / _REGISTERS)
_RANK_BITS: Final = 64 - _BITS
_HASH: Final = (1 << 64) - 1


class DistinctCount:
    """Distinct 64-bit hashes."""

    __slots__ = ("_empty", "_exact", "_inverse_sum", "_registers", "_seen")

    def __init__(self, exact: int = EXACT) -> None:
        self._exact = exact
        self._seen: set[int] | None = set()
        self._registers = bytearray(0)
        self._empty = _REGISTERS
        self._inverse_sum = float(_REGISTERS)

    @property
    def is_exact(self) -> bool:
        return self._seen is not None

    def knows(self, value: int) -> bool:
        """Whether it was added before; False once only estimates are kept."""
        return self._seen is not None and value in self._seen

    def add(self, value: int) -> None:
        if self._seen is None:
            self._note(value)
            return
        self._seen.add(value)
        if len(self._seen) > self._exact:
            seen, self._seen = self._seen, None
            self._registers = bytearray(_REGISTERS)
            for each in seen:
                self._note(each)

    def count(self) -> int:
        if self._seen is not None:
            return len(self._seen)
        estimate = _ALPHA * _REGISTERS * _REGISTERS / self._inverse_sum
        if estimate <= 2.5 * _REGISTERS and self._empty:
            estimate = _REGISTERS * math.log(_REGISTERS / self._empty)
        return round(estimate)

    def _note(self, value: int) -> None:
        value &= _HASH
        register = value & (_REGISTERS - 1)
        rank = _RANK_BITS - (value >> _BITS).bit_length() + 1
        before = self._registers[register]
        if rank > before:
            self._registers[register] = rank
            self._empty -= before == 0
            self._inverse_sum += 2.0**-rank - 2.0**-before


class DistinctAnswers:
    """Distinct answers per stage of each topic and version, and whether there may be more of them.

    The topics asked for longest ago are forgotten beyond `topics`; one takes at most 3 MB.
    """

    def __init__(self, *, budget: int = 0, exact: int = EXACT, topics: int = 32) -> None:
        """`budget`: most answers per stage; 0: any number."""
        assert budget >= 0
        assert topics >= 1
        self._budget = budget
        self._exact = exact
        self._max_topics = topics
        self._topics: OrderedDict[tuple[str, int], dict[str, DistinctCount]] = OrderedDict()
        self._refused = 0

    def admit(self, topic: str, version: int, picks: Picks) -> bool:
        """Count what these picks show in each stage; False, and nothing counted, if that is more than the budget.

        Answers already counted are always admitted while counts are exact; beyond that none is once the estimate
        reaches the budget, which is then met within the estimate's error.
        """
        stages = self._of(topic, version)
        hashes = _stage_hashes(picks)
        if self._budget:
            for stage, value in hashes.items():
                known = stages.get(stage)
                if known is not None and not known.knows(value) and known.count() >= self._budget:
                    self._refused += 1
                    return False
        for stage, value in hashes.items():
            if stage not in stages:
                stages[stage] = DistinctCount(self._exact)
            stages[stage].add(value)
        return True

    def counts(self, topic: str, version: int) -> Mapping[str, int]:
        """Stage key -> distinct answers so far; empty for a topic nobody asked for."""
        return {stage: each.count() for stage, each in self._topics.get((topic, version), {}).items()}

    def most_by_stage(self) -> Mapping[str, int]:
        """Stage key -> the most distinct answers it has in any topic counted."""
        most: dict[str, int] = {}
        for stages in self._topics.values():
            for stage, each in stages.items():
                most[stage] = max(most.get(stage, 0), each.count())
        return most

    def stats(self) -> dict[str, int]:
        """The most answers any stage has now, the budget, picks refused for it, and topics counted."""
        most = (each.count() for stages in self._topics.values() for each in stages.values())
        return {
            "most": max(most, default=0),
            "budget": self._budget,
            "refused": self._refused,
            "topics": len(self._topics),
        }

    def _of(self, topic: str, version: int) -> dict[str, DistinctCount]:
        key = (topic, version)
        found = self._topics.get(key)
        if found is None:
            found = self._topics[key] = {}
            if len(self._topics) > self._max_topics:
                self._topics.popitem(last=False)
        else:
            self._topics.move_to_end(key)
        return found


def _stage_hashes(picks: Picks) -> dict[str, int]:
    hashes: dict[str, int] = {}
    cells, at = picks.cells, 0
    for stage, rows in picks.layout.stages:
        end = at + sum(row.titles + row.because for row in rows)
        hashes[stage] = hash((len(rows), cells[at:end].tobytes())) & _HASH
        at = end
    return hashes
