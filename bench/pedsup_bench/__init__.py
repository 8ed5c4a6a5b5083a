"""Speed, memory and quality of the GGUF that ships, and the gate that catches regressions."""
