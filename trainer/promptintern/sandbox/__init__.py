"""Runs programs that a model wrote, which may do anything, so that they can harm neither the host nor the run."""
