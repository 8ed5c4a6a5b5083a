"""Checkpoints of real shapes with random weights."""
