"""A conversation that survives being killed, and the file that keeps it."""
