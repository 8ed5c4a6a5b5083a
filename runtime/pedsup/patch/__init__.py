"""Patches: a new version of a model file as what changed in its blocks (docs/patch.md)."""
