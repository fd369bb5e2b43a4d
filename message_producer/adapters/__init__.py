"""The producer's outside: SQL, APScheduler."""
