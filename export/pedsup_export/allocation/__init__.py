"""Which type each tensor gets under a budget, by measured sensitivity."""
