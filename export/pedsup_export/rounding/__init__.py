"""Rounding with error feedback onto ggml's tensor types."""
