"""Make a patch: the difference of two model files (docs/patch.md)."""
