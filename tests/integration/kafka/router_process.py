"""A router's log in a process of its own, to be killed or frozen: prints what it is given, one JSON line each.

What it logs goes to standard error: a line of it among the others would be the last one that anybody reads.
"""

from __future__ import annotations

import asyncio
import json
import sys

from contract.runtime.kafka_settings import KafkaSettings
from contract.runtime.telemetry import configure_logging
from tests.integration.kafka.kafka_world import polled


async def main() -> None:
    configure_logging(form="console")
    settings, group = KafkaSettings.model_validate_json(sys.argv[1]), sys.argv[2]
    async with polled(settings, group) as router:
        told, changes = 0, None
        while True:
            router.check()
            if changes != router.changes:
                changes = router.changes
                print(json.dumps({"changes": changes, "ours": list(router.ours.items())}), flush=True)
            for entry in router.entries[told:]:
                told += 1
                if (one := entry.broadcast) is not None:
                    print(json.dumps({"topic": one.topic, "timestamp": one.timestamp}), flush=True)
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main())
