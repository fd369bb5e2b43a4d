"""`stagecue bench faults`: every fault we claim to survive, done to a running cluster, with an audit per device.

`plan` says which stage is due when, `injections` does the harm, `run` brings both together with a fleet, `recovery` and
`verdict` judge what the devices, the outbox and Kafka recorded, `table` puts it into words.
"""

from __future__ import annotations

__all__: list[str] = []
