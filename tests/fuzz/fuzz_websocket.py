"""Fuzz the WebSocket codec with atheris.

atheris is no dependency of the project. An environment of its own, from the root of the repository:

    python3 -m venv fuzz-venv
    fuzz-venv/bin/pip install atheris websockets httptools
    mkdir -p found
    PYTHONPATH=. fuzz-venv/bin/python tests/fuzz/fuzz_websocket.py found tests/fuzz/corpus/websocket \\
        -max_len=2000 -max_total_time=600

The first directory collects what reached new code; `-merge=1 tests/fuzz/corpus/websocket found` keeps the little of it
that is worth keeping. What crashes is written to `crash-*`: put it into `tests/fuzz/corpus/websocket`, where
`test_fuzz_corpus.py` replays it for ever.

An input is one byte for the limit, one for the slices, and the stream; what is checked of it is told in
`websocket_check.py`.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["push_proxy"]):
    import push_proxy.websocket  # noqa: F401

from tests.fuzz.inputs import check_websocket


def main() -> None:
    # For -merge and -jobs libFuzzer starts itself anew: the first argument, by a shell.
    atheris.Setup([f"{sys.executable} {sys.argv[0]}", *sys.argv[1:]], check_websocket)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
