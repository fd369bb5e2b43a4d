"""Servers the push node is compared with, and the load client all of them are measured with."""
