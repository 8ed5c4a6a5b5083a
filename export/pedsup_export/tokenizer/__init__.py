"""Vocabulary, merges, special tokens and chat template, from a Hugging Face folder."""
