"""The router's adapters: how it reaches nodes in other processes."""
