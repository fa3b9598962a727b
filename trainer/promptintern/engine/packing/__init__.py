"""Packs: which rows share a pack, how rows lie in a pack, and how the model computes a pack."""
