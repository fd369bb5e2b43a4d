"""One service each in a process of its own, on one host: the log is the producer's SQLite file, the KV store Redis.

kv.py            the Redis all but the producer use, and the watch over it
lifecycle.py     what every service process shares: patience at start, the ready line
health.py        the listener of a service that has no other
producer.py  router.py  push.py  dgs.py      one composition each; none imports another's service
lease.py         the push node's lease, by which routers find it
"""
