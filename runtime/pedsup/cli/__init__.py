"""The command `pedsup-run` and its verbs."""
