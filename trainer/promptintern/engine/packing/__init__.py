"""Packs: which rows share one, how they lie in it, and its pass through the model."""
