"""The API of PromptIntern on Kubernetes, which defines what a job contains. The trainer and the operator run it."""

from promptintern_api.errors import InvalidJob, Problem, parse_job
from promptintern_api.job import PromptInternJob, PromptInternJobSpec

__all__ = ["InvalidJob", "Problem", "PromptInternJob", "PromptInternJobSpec", "parse_job"]
