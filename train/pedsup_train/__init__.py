"""Train a LoRA adapter reproducibly, with the recipe as data."""
