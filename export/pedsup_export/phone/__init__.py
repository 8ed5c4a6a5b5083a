"""Which model, type and context for which phone: predicted from shapes and profiles, no file."""
