"""`pedsup-run tune`: measure how this device runs a model best, keep it, and use it."""
