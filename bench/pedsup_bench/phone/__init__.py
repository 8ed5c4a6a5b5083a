"""Phones that we do not have: predictions from profiles, and limits that stand in for phones."""
