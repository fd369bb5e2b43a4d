"""What two services must agree on; it imports nothing of ours.

broadcast, schedule, reach   the facts that travel
replay_log                   the rules of a topic's log (R8, R9), pure
frames, node_link            the device protocol and the router-node protocol
cursor, names, close_codes, errors, clock, durations, backoff
tokens, token_*               claims, keys, and rings with their rotation
kv/                          ports of the key-value store and their adapters
runtime/                     the only impure part: clock, runner, settings, telemetry, failpoints
"""
