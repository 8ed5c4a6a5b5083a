"""Prove the file: digests, the adapter in it, signature, quality gate."""
