"""A part of the stand-in for vLLM."""

from dataclasses import dataclass


@dataclass
class LoRARequest:
    """An adapter."""

    lora_name: str
    lora_int_id: int
    path: str
