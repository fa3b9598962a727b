"""Evaluation of a run: the arms, their answers to the held-out rows, and what else the model does."""
