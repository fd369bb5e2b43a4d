"""The push node: maps topics to its own connections and writes one prepared frame to each.

topic_state, recovery, session, hub, reach_tally, drain, handshake, timer_wheel   pure: decisions
node          the use case: hand-over (R14), accept by chain (R13), answers (R15, R16), fan-out
followed      what the node keeps of one topic, prepared frames included
fanout        writes in slices that yield to the loop
router_link   the node's end of the link to every router
anti_entropy  compares what the node knows with the log about once a second; judges isolation (R17)
adapters/     the device listener: asyncio.Protocol around a sans-I/O WebSocket codec
app           composition
"""
