"""The sub-commands of `pedsup-bench`, one module each."""
