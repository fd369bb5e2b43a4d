"""What the DGS keeps in memory so that a request waits for nobody: schedules, newest broadcasts, picks."""
