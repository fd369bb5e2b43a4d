"""Load and figures: bench/ measures what is promised, on real processes and sockets."""
