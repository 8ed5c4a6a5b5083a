"""Conversations on a terminal or in a pipe."""
