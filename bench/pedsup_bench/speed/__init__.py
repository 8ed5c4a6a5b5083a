"""How fast a file loads, reads and writes, and in how much memory."""
