"""The API of PromptIntern on Kubernetes, which defines what a job contains. The trainer and the operator run it.

The modules of the names below are imported when a name is first used, because their models take longer to import than
most of what needs only ``contract``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptintern_api.errors import InvalidJob, parse_job
    from promptintern_api.job import PromptInternJob, PromptInternJobSpec
    from promptintern_api.problem import Problem

__all__ = ["InvalidJob", "Problem", "PromptInternJob", "PromptInternJobSpec", "parse_job"]

_MODULES = {
    "InvalidJob": "errors",
    "Problem": "problem",
    "PromptInternJob": "job",
    "PromptInternJobSpec": "job",
    "parse_job": "errors",
}


def __getattr__(name: str) -> Any:
    """Import the module that defines ``name``, and return the value of ``name``."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
