"""Attention over prefix trees: what rows share is computed once."""
