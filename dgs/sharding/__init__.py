"""Which cluster serves whom while an event is hot, and how large each cluster should be."""
