"""Where materialised picks are kept: in memory, in files, in Redis."""
