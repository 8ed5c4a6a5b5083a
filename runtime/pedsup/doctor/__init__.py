"""`pedsup-run doctor`: what this device is, which problems it has, and their remedies."""
