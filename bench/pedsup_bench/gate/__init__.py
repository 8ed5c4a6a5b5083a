"""The gate: figures of a file against thresholds, publish or refuse."""
