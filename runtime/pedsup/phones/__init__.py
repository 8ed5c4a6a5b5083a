"""Phones that we do not have: their profiles, and predictions for a file on them."""
