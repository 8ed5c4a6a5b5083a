"""Helpers of the tests: oracles and made models."""
