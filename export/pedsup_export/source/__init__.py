"""What an export reads: checkpoints, their tensors, and where they come from."""
