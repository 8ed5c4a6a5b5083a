"""What the kernels share: sixteen lanes, half floats, compilation."""
