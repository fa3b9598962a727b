"""The API of PromptIntern on Kubernetes: what a job is. The trainer and the operator say how it runs."""

from promptintern_api.errors import InvalidJob, Problem, parse_job
from promptintern_api.job import PromptInternJob, PromptInternJobSpec

__all__ = ["InvalidJob", "Problem", "PromptInternJob", "PromptInternJobSpec", "parse_job"]
