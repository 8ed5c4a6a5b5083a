"""What the rounding knows of a model's inputs: text, a forward pass, and the statistics kept."""
