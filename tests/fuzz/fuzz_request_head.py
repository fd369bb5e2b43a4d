"""Fuzz the reader of request heads with atheris; how to run it is told in `fuzz_websocket.py`, its twin.

    PYTHONPATH=. fuzz-venv/bin/python tests/fuzz/fuzz_request_head.py found tests/fuzz/corpus/request_head \\
        -dict=tests/fuzz/request_head.dict -max_len=1000 -max_total_time=600

An input is one byte for the limit, one for the slices, and the stream; what is checked of it is told in
`request_head_check.py`.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["push_proxy"]):
    import push_proxy.request_head  # noqa: F401

from tests.fuzz.inputs import check_request_head


def main() -> None:
    # For -merge and -jobs libFuzzer starts itself anew: the first argument, by a shell.
    atheris.Setup([f"{sys.executable} {sys.argv[0]}", *sys.argv[1:]], check_request_head)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
