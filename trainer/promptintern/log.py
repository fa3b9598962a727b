"""The log of what happens in the background, such as retries of requests to the storage; it goes to standard error."""

import logging
import sys
from typing import Any

import structlog

structlog.configure(
    wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ],
)


def get_logger(name: str) -> Any:
    """Return the logger ``name``."""
    return structlog.get_logger(name)
