"""Write the subgraph's SDL to standard output: `python -m dgs.export_schema > dgs/subgraph.graphql`."""

from __future__ import annotations

import sys

from dgs.schema import build_schema

__all__ = ["sdl"]


def sdl() -> str:
    """The schema as a federation gateway composes it, ending in a newline."""
    return build_schema().as_str().rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(sdl())
