"""Fused layers of a transformers model, which compute the same in fewer passes over memory."""
