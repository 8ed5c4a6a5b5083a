"""Our engine beside llama-bench."""
