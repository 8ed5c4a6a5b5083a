"""The model that is trained: backends, targets, probes."""
