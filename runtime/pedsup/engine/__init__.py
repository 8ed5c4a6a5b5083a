"""One engine interface, two engines: llama.cpp in this process, or a `llama-server` child."""
