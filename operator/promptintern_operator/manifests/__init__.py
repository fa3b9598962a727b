"""Builders of all objects that the operator creates: pure functions from a job and the settings to plain dicts."""
