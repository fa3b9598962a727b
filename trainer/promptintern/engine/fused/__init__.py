"""Fused layers for transformers models, which compute the same results in fewer passes over memory."""
