"""The commands that do not train: ``validate``, ``prepare``, ``predict`` and ``export``."""
