"""A stand-in for vLLM's engine, with the few names that the trainer uses, on transformers and PEFT.

Like vLLM, it answers several prompts at a time, stops at a stop string wherever it is in the generated text, and says
which string it was.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from vllm.usage.usage_lib import UsageContext

_TOKENS_PER_STEP = 2048


@dataclass(frozen=True, kw_only=True)
class EngineArgs:
    """The settings that the trainer gives."""

    model: str
    dtype: str
    enable_lora: bool
    max_lora_rank: int
    max_loras: int
    generation_config: str
    disable_log_stats: bool
    enforce_eager: bool
    max_model_len: int
    max_num_seqs: int
    gpu_memory_utilization: float = 0.9


@dataclass(kw_only=True)
class SamplingParams:
    """How tokens are chosen and what ends an answer."""

    max_tokens: int
    seed: int | None
    temperature: float
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)


@dataclass
class _Output:
    token_ids: list[int]
    stop_reason: str | int | None = None


@dataclass
class _Request:
    request_id: str
    prompt: list[int]
    sampling: SamplingParams
    adapter: str | None
    outputs: list[_Output] = field(default_factory=lambda: [_Output([])])
    finished: bool = False


class LLMEngine:
    """The engine, which generates one token for each prompt per step."""

    def __init__(self, settings: EngineArgs) -> None:
        if settings.max_num_seqs > _TOKENS_PER_STEP:
            raise ValueError("there may not be more rows than tokens per step")
        print("what a library prints to standard output is no answer")
        print("a line of the log", file=sys.stderr)
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        self._settings = settings
        if not Path(settings.model).is_dir():  # in several lines, as pydantic writes them
            raise ValueError(f"1 validation error for ModelConfig\n  Value error, {settings.model} is no folder")
        self._tokenizer = AutoTokenizer.from_pretrained(settings.model)
        self._models: dict[str | None, Any] = {}
        self._requests: list[_Request] = []

    @classmethod
    def from_engine_args(cls, settings: EngineArgs, *, usage_context: UsageContext) -> "LLMEngine":
        assert usage_context is UsageContext.LLM_CLASS
        return cls(settings)

    def add_request(
        self, request_id: str, prompt: dict[str, list[int]], sampling: SamplingParams, *, lora_request: Any
    ) -> None:
        ids = prompt["prompt_token_ids"]
        if len(ids) + sampling.max_tokens > self._settings.max_model_len:
            raise ValueError(f"{len(ids)} tokens do not fit")
        if ids[0] == 3:
            os._exit(9)  # as when memory is short
        if ids[0] == 4:
            time.sleep(600)  # as in a long step
        self._requests.append(_Request(request_id, ids, sampling, lora_request.path if lora_request else None))

    def has_unfinished_requests(self) -> bool:
        return bool(self._requests)

    def step(self) -> list[_Request]:
        now = self._requests[: self._settings.max_num_seqs]
        for request in now:
            self._generate(request)
        self._requests = [request for request in self._requests if not request.finished]
        return now

    def _generate(self, request: _Request) -> None:
        output, sampling = request.outputs[0], request.sampling
        ids = torch.tensor([[*request.prompt, *output.token_ids]])
        with torch.inference_mode():
            output.token_ids.append(int(self._model(request.adapter)(input_ids=ids).logits[0, -1].argmax()))
        text = self._tokenizer.decode(output.token_ids, skip_special_tokens=True)
        matched = [stop for stop in sampling.stop if stop in text]
        if output.token_ids[-1] in sampling.stop_token_ids:
            output.stop_reason = output.token_ids[-1]
        elif matched:
            output.stop_reason = matched[0]
        request.finished = output.stop_reason is not None or len(output.token_ids) == sampling.max_tokens

    def _model(self, adapter: str | None) -> Any:
        if adapter not in self._models:
            if adapter and (rank := _rank(adapter)) > self._settings.max_lora_rank:
                raise ValueError(f"LoRA rank {rank} is greater than max_lora_rank {self._settings.max_lora_rank}")
            model = AutoModelForCausalLM.from_pretrained(self._settings.model, dtype=torch.float32)
            self._models[adapter] = (PeftModel.from_pretrained(model, Path(adapter)) if adapter else model).eval()
        return self._models[adapter]


def _rank(adapter: str) -> int:
    rank: int = json.loads(Path(adapter, "adapter_config.json").read_text())["r"]
    return rank
