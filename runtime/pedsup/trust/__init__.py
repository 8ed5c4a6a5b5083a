"""Who made a model file, and whether it is whole: signatures, trusted keys, verified files."""
