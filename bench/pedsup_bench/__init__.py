"""Measure speed, memory and quality of the GGUF that ships."""
