"""What this device is: cores, memory, storage, heat, as far as it can be read."""
