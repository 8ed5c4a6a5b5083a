"""Rows of questions with options, as people publish them: one reader for training and bench."""
