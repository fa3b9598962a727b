"""Settings of Hypothesis for all tests: no deadlines, because machines are shared, and fixed examples in CI."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "shared machine",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared machine")
