"""Phones we do not have: profiles, and what a file would do on them."""
