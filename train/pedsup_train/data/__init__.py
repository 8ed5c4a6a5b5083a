"""Training data: rows, examples, parts, batches, tokens."""
