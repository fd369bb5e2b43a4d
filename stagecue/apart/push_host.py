"""Several push nodes in one process, for benchmarks that need many nodes and measure others: `python -m ...push_host`.

Each is a whole node: its own listeners, lease, links and store connection, as `stagecue push` runs it, with the ports
of its own base. In production a node has a process, and a core, to itself.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from contract.runtime.runner import run_process
from contract.runtime.telemetry import configure_logging
from stagecue.apart.lifecycle import ServiceAddress
from stagecue.apart.push import run_push
from stagecue.settings import InstallationSettings

__all__ = ["main", "run_push_host"]


async def run_push_host(data_dir: Path, port_bases: list[int], stop: asyncio.Event) -> None:
    """Run a node per port base until `stop`; prints one line once all are ready. One that ends stops all."""
    announced = 0

    async def announce(address: ServiceAddress) -> None:
        nonlocal announced
        announced += 1
        if announced == len(port_bases):
            print("ready", flush=True)

    async with asyncio.TaskGroup() as nodes:
        for base in port_bases:
            settings = InstallationSettings(data_dir=data_dir, port_base=base)
            if not settings.kv_url:
                raise SystemExit("set STAGECUE_KV_URL")
            nodes.create_task(run_push(settings, settings.kv_url, stop, announce), name=f"push-{base}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stagecue.apart.push_host", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--bases", required=True, help="Port bases, separated by commas.")
    arguments = parser.parse_args()
    configure_logging(level="WARNING", form="json", service="push-host")
    bases = [int(base) for base in arguments.bases.split(",")]
    return run_process(lambda stop: run_push_host(arguments.data_dir, bases, stop))


if __name__ == "__main__":
    sys.exit(main())
