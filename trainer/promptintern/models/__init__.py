"""Base models: fetching, checking and loading them."""
