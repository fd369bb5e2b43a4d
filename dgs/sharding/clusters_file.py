"""The clusters' TOML file, read once at start."""

from __future__ import annotations

from pathlib import Path

from contract.errors import InvalidRequest
from dgs.sharding.clusters import Clusters, parse_clusters

__all__ = ["load_clusters"]


def load_clusters(path: Path, *, named: str = "") -> Clusters:
    """Read DGS_CLUSTERS_PATH, blocking; `named`: DGS_CLUSTER, which must be one of them if it is set.

    Raises InvalidRequest naming the setting, the file, and the line or field.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise InvalidRequest(f"{path}: cannot be read: {exc.strerror}", field="DGS_CLUSTERS_PATH") from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise InvalidRequest(f"{path.name}: line {line}: not UTF-8", field="DGS_CLUSTERS_PATH") from exc
    clusters = parse_clusters(text, source=path.name)
    if named and named not in clusters.by_name:
        raise InvalidRequest(
            f"no cluster {named[:40]!r} in {path.name}", field="DGS_CLUSTER", rule=", ".join(clusters.by_name)
        )
    return clusters
