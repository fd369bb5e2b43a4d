"""The key-value store between router, push nodes and DGS: ports, and one adapter per backend."""
