"""Training on a GPU, measured."""
