"""The verbs of `pedsup-run`; `pedsup.verbs` says which module is which."""
