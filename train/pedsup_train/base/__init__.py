"""The embedded default base."""
