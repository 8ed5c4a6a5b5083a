"""Phones we do not have: profiles, predictions from them, and limits that stand in for them."""
