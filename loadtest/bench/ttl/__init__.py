"""`stagecue bench ttl`: refreshes of a night, with fixed lifetimes and with jittered ones."""
