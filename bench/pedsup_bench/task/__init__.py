"""How well a file does what its adapter was trained for: examples of the user's own."""
