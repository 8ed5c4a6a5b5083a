"""Execute a plan: stream the tensors, prove the file, publish it; what is printed of it."""
