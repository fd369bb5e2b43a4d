"""Fuzz the DGS's request reader with atheris; how to run it is told in `fuzz_websocket.py`.

    PYTHONPATH=. fuzz-venv/bin/python tests/fuzz/fuzz_dgs_request.py found tests/fuzz/corpus/dgs_request \\
        -dict=tests/fuzz/request_head.dict -max_len=1000 -max_total_time=600

An input is one byte for the slices, and the stream; what is checked of it is told in `dgs_request_check.py`.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["dgs.http"]):
    import dgs.http.request_reader  # noqa: F401

from tests.fuzz.inputs import check_dgs_request


def main() -> None:
    # For -merge and -jobs libFuzzer starts itself anew: the first argument, by a shell.
    atheris.Setup([f"{sys.executable} {sys.argv[0]}", *sys.argv[1:]], check_dgs_request)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
