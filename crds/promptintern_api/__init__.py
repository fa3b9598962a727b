"""The API of PromptIntern on Kubernetes: what a job says. How to run it is the others' matter."""

from promptintern_api.errors import InvalidJob, Problem, parse_job
from promptintern_api.job import PromptInternJob, PromptInternJobSpec

__all__ = ["InvalidJob", "Problem", "PromptInternJob", "PromptInternJobSpec", "parse_job"]
