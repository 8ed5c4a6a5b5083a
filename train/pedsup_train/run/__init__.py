"""A training run: plan, loop, work folder, facts, card."""
