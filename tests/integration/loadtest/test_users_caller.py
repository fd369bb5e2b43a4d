"""Goal: a user's HTTP says what became of each request, sends none twice, and takes no answer without an end.

Method: in a process of its own, since gevent patches the one it is imported into.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import gevent.monkey; gevent.monkey.patch_all()
import json, time
from gevent.server import StreamServer
from loadtest.users.asking import HttpRequest
from loadtest.users.caller import Caller, CallFailed

OK = b"HTTP/1.1 200 OK\\r\\n"
ANSWERS = {
    "cut body": OK + b"Content-Length: 100\\r\\n\\r\\n0123456789",
    "cut chunks": OK + b"Transfer-Encoding: chunked\\r\\n\\r\\n5\\r\\nhello\\r\\n",
    "cut head": b"HTTP/1.1 200",
    "nothing": b"",
    "garbage": b"garbage\\r\\n\\r\\n",
    "until the end": OK + b"\\r\\nall of it",
    "too large": OK + b"Content-Length: 9000000\\r\\n\\r\\n" + b"x" * 9000000,
    "kept": OK + b"Content-Length: 2\\r\\n\\r\\nok",
}
requests, name = [], ""

def serve(peer, address):
    requests.append(peer.recv(65536))
    try:
        peer.sendall(ANSWERS[name])
    except OSError:
        pass
    peer.close()

def called(caller):
    try:
        return caller.call(HttpRequest("GET", "/", b"", {})).body.decode()
    except CallFailed as exc:
        return f"failed: {exc}"

server = StreamServer(("127.0.0.1", 0), serve)
server.start()
url = f"http://127.0.0.1:{server.server_port}"
found = {}
for name in ANSWERS:
    found[name] = called(Caller(url, timeout_s=5.0))
requests.clear()
caller = Caller(url, timeout_s=5.0)
found["first"] = called(caller)
time.sleep(0.05)  # the server's end arrives at the connection that is kept
found["second"] = called(caller)
found["requests"] = len(requests)
requests.clear()
name = "nothing"
time.sleep(0.05)
found["third"] = called(caller)
found["sent again"] = len(requests) - 1
print(json.dumps(found))
"""


@pytest.mark.slow
def test_what_becomes_of_a_request_is_said_and_nothing_is_sent_twice() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=True)
    found = json.loads(run.stdout)
    assert found == {
        "cut body": "failed: connection lost",
        "cut chunks": "failed: connection lost",
        "cut head": "failed: connection lost",
        "nothing": "failed: connection lost",
        "garbage": "failed: not HTTP",
        "until the end": "all of it",
        "too large": "failed: answer too large",
        "kept": "ok",
        "first": "ok",
        "second": "ok",
        "requests": 2,
        "third": "failed: connection lost",
        "sent again": 0,
    }
