"""A router's log in a process of its own, to be killed or frozen: prints what it is given, one JSON line each."""

from __future__ import annotations

import asyncio
import json
import sys

from contract.runtime.kafka_settings import KafkaSettings
from tests.integration.kafka.kafka_world import polled


async def main() -> None:
    settings, group = KafkaSettings.model_validate_json(sys.argv[1]), sys.argv[2]
    async with polled(settings, group) as router:
        told, ours = 0, None
        while True:
            if ours != (now := sorted(router.ours)):
                ours = now
                print(json.dumps({"ours": ours}), flush=True)
            for entry in router.entries[told:]:
                told += 1
                if entry.broadcast is not None:
                    print(json.dumps({"timestamp": entry.broadcast.timestamp}), flush=True)
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main())
