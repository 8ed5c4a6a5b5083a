"""The GGUF container as it is written: metadata, tensor table, positions."""
