"""Layers of a transformers model, computed in fewer passes over memory."""
