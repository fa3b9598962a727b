"""How Hypothesis works in all tests: without a clock, since machines are shared; the same examples every time in CI."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "shared machine",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared machine")
