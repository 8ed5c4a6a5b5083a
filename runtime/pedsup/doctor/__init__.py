"""`pedsup-run doctor`: what this device is, what stands in the way, and the remedy for each."""
