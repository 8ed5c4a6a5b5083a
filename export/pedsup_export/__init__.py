"""Turn a base model and a LoRA adapter into one quantized, verified GGUF in a single pass."""
