"""The crash report: a mark while a model is in use, and what the next start makes of it."""
