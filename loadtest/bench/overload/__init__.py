"""`stagecue bench overload`: several times what the DGS can serve, and what becomes of what matters."""
