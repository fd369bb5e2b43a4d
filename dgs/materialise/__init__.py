"""Picks of many profiles made ahead of the night: the batch job, and what it writes."""
