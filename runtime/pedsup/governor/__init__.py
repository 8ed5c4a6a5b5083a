"""Fewer threads rather than a throttled phone: a policy, the sensors it reads, and the engine it
governs."""
