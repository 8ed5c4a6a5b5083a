"""A PEFT LoRA adapter: its folder, its configuration, its tensors, and what they change."""
