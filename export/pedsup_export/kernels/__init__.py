"""Vector kernels that give ggml's bytes, several times as fast."""
