"""Attention over prefix trees, in which tokens that several rows share are computed once."""
