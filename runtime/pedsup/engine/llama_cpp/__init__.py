"""llama.cpp in this process, through the low-level calls of llama-cpp-python."""
