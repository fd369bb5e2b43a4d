"""The cluster's topology as local processes on loopback, for development, benches and tests.

member.py        one process: started until ready, killed, frozen, stopped, started again on the same ports and data
ports.py         blocks of ports that nobody else picks meanwhile
kafka.py  redis.py  postgres.py     the servers, with the shipped configuration of `deploy/`
service.py       one of our own services, started as `python -m stagecue <service>`
cluster.py       all of them together
"""
