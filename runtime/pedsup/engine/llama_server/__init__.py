"""llama.cpp in a `llama-server` child, spoken to over loopback."""
