"""The service's own HTTP/1.1 server: what reads requests, lets them wait by class, and writes answers in order.

request_reader   bytes -> whole requests, or why there is none (pure)
intake           requests that wait, by class and age (pure)
answer           an answer's bytes, and the server's own error answers (pure)
exchange         one request on its way to its answer
connection       one socket: requests in, answers out in their order, bounded both ways
server           DgsServer: two stages a turn, deadlines, drain
asgi_bridge      an ASGI application as an Endpoint
"""
