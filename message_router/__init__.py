"""The message router: from the log to the replay log and to every push node interested, acknowledged, then committed.

chain, delivery, commit, interest, tails   decisions, pure
relay         the use case: take, store, deliver, commit; the store's trouble is not the audience's (R9-R12)
store, rebuild   what the KV store must hold, and making it whole again (R9, R10)
links         the router's end of the links to push nodes; reach forwards their counts
adapters/     finding nodes in other processes and connecting to them
app           composition
"""
