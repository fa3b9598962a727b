"""Builders of everything the operator creates: pure functions from a job and the settings to plain dicts."""
