"""`stagecue bench cluster`: the figures of a whole cluster of local processes, through Kafka, Redis and PostgreSQL.

options   sizes, and which parts to run
scene     the running cluster as the parts use it: events stored, fleets connected, CPU by process
night     due time to every device, hop by hop; a few events that all devices follow, or a burst of hundreds
routing   the router's CPU per broadcast: over nodes, and over devices
nodes     more push nodes than the cluster's own, several in a process
reconnect Redis commands per device that comes back
fit       pure: a + b x nodes
command   everything together, printed and judged
"""
