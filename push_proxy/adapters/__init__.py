"""Shells of the push node: sockets on one side, the sans-I/O codec on the other."""
