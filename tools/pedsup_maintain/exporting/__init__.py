"""Our export beside the usual pipeline."""
