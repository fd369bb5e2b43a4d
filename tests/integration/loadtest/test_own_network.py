"""A network of its own: as large a table as asked for, loopback up, and the machine as it was. Wants root."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.machine.own_network import table_rows, wanted_rows

# Of a process of its own: whoever enters must not be this one.
ENTERS = """
import socket, sys
from pathlib import Path
from loadtest.machine.own_network import own_network, table_rows
range_ = Path("/proc/sys/net/ipv4/ip_local_port_range")
outside = range_.read_text()
before = table_rows()
with own_network(1 << 14):
    assert table_rows() == 1 << 14, table_rows()
    assert range_.read_text() == outside
    server = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        client.sendall(b"in there")
        assert accepted.recv(64) == b"in there"
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=1)
    except ConnectionRefusedError:
        print("alone")
assert table_rows() == before
socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5).close()
print("back")
"""
OF_CHILDREN = Path("/proc/sys/net/ipv4/tcp_child_ehash_entries")


@pytest.mark.external_service
def test_inside_and_back_again() -> None:
    rows, of_children = table_rows(), OF_CHILDREN.read_text()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = subprocess.run([sys.executable, "-c", ENTERS, port], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alone\nback\n"), done.stderr
    assert (table_rows(), OF_CHILDREN.read_text()) == (rows, of_children)


@pytest.mark.parametrize(("devices", "rows"), [(1, 4), (10_000, 65_536), (1_000_000, 4_194_304), (9_000_000, 1 << 24)])
def test_rows_for_devices(devices: int, rows: int) -> None:
    assert wanted_rows(devices) == rows
