"""The verbs of `pedsup-run`: one module each, with a click command named `command`."""
