"""A node's pulse: rests until it is asked to look, or until somebody hurries it."""

from __future__ import annotations

import asyncio
import time

from contract.runtime.system_clock import SystemClock
from push_proxy.adapters.pulse import TICK_S, Pulse

_LONG_S = 60.0


async def test_hurried_while_it_rests() -> None:
    pulse = Pulse(SystemClock())
    asyncio.get_running_loop().call_later(TICK_S, pulse.hurry)
    async with asyncio.timeout(_LONG_S / 2):
        await pulse.rest(time.monotonic() + _LONG_S)


async def test_hurried_before_it_rests() -> None:
    pulse = Pulse(SystemClock())
    pulse.hurry()
    async with asyncio.timeout(_LONG_S / 2):
        await pulse.rest(time.monotonic() + _LONG_S)
        await pulse.rest(0.0)  # what hurried the rest before is forgotten
        rests = asyncio.ensure_future(pulse.rest(time.monotonic() + _LONG_S))
        done, _ = await asyncio.wait({rests}, timeout=3 * TICK_S)
        assert not done
        rests.cancel()


async def test_never_early_and_says_how_late() -> None:
    pulse = Pulse(SystemClock())
    for wait_s in (0.0, 2 * TICK_S):
        began_s = time.monotonic()
        asyncio.get_running_loop().call_later(TICK_S / 2, time.sleep, 4 * TICK_S)
        late_s = await pulse.rest(began_s + wait_s)
        assert time.monotonic() - began_s >= max(TICK_S, wait_s)
        assert late_s >= TICK_S, "the loop stood still for longer than it was to rest"
