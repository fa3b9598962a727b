"""Which rows share a pack, how they lie in it, and what the model computes of it."""
