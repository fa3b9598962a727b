"""Attention over prefix trees, which computes once what several rows share."""
