"""How vLLM is used, on which its default limits depend."""

from enum import Enum


class UsageContext(Enum):
    """The uses that the trainer may name."""

    LLM_CLASS = "LLM_CLASS"
