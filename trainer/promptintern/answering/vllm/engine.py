"""The vLLM engine as the trainer sees it: prompts and an adapter go in, answers come out."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from promptintern.answering.answers import (
    Answer,
    Decoding,
    answer_of,
    end_tokens,
    tell_in_batches,
    truncate_at_stop,
)
from promptintern.answering.vllm.environment import RANKS, VllmProgram
from promptintern.answering.vllm.process import VllmProcess
from promptintern.engine.adapter import Adapter
from promptintern.engine.seeding import mix

_ROOM = 256
"""The length of the longest row is rounded up to a multiple of this number, so that few calls need a new engine."""
_SHARE_OF_FREE_MEMORY = 0.9
_MAX_ROWS = 1024
"""The maximum number of rows at a time. vLLM refuses more rows than tokens per step, of which it has 2,048 or more."""


@dataclass(kw_only=True)
class _Row:
    """A row that is being answered: its prompt, and the tokens of its answer so far."""

    prompt: Sequence[int]
    seed: int
    ids: list[int]


class VllmEngine:
    """A vLLM engine with the base model of a run, which starts at the first call.

    Its process ends with the trainer's, or at ``close``; the next call starts another one.
    """

    def __init__(
        self, program: VllmProgram, *, model: Path, dtype: str, rank: int, max_tokens: int | None, device: torch.device
    ) -> None:
        """Remember the settings.

        Args:
            program: The Python program of the environment that has vLLM.
            model: The folder of the base model.
            dtype: The type of the base weights.
            rank: The largest rank of the adapter's layers.
            max_tokens: The context length of the model; None if it has no limit.
            device: The device of the model.
        """
        self.version = program.version
        self.start_seconds = 0.0
        """The time that all starts of vLLM took."""
        self._python, self._device, self._max_tokens = program.python, device, max_tokens
        self._settings: dict[str, Any] = {
            "model": str(model),
            "dtype": dtype,
            "enable_lora": True,
            "max_lora_rank": next((each for each in RANKS if each >= rank), rank),
            "max_loras": 1,
            "generation_config": "vllm",  # no penalties, whatever the model folder says
            "disable_log_stats": True,
        }
        if device.type == "cpu":
            self._settings["enforce_eager"] = True  # needs no C++ compiler
        self._process: VllmProcess | None = None
        self._room = 0
        self._files = tempfile.TemporaryDirectory(prefix="promptintern-vllm-")
        self._adapters: list[str] = []

    @property
    def holds_device(self) -> bool:
        """Whether PyTorch has too little memory for a training or scores, until ``close``."""
        return self._process is not None and self.shares_memory

    @property
    def shares_memory(self) -> bool:
        """Whether vLLM takes its memory from the one that PyTorch needs, as on a GPU."""
        return self._device.type == "cuda"

    def answer(
        self,
        adapter: Adapter,
        tokenizer: Any,
        prompts: Sequence[Sequence[int]],
        *,
        numbers: Sequence[int],
        use_adapter: bool,
        decoding: Decoding,
        progress: Callable[[int], None],
    ) -> list[Answer]:
        """Return answers to ``prompts``, in the order of the prompts; see ``promptintern.answering.generate``.

        Raises:
            RunFailed: if vLLM cannot load the model or the adapter, or ends.
        """
        if not prompts:
            return []
        ends = end_tokens(adapter.model, tokenizer, decoding.ends)
        rows = {
            index: _Row(prompt=prompt, seed=mix(*decoding.seed, number) >> 1, ids=[])
            for index, (prompt, number) in enumerate(zip(prompts, numbers, strict=True))
        }
        sampling = {"temperature": decoding.temperature, "stop": list(decoding.stop), "stop_token_ids": sorted(ends)}
        tell = tell_in_batches(len(prompts), decoding.batch_size, progress)
        answers: dict[int, Answer] = {}
        waiting = rows
        try:
            process = self._ready(max(map(len, prompts)) + decoding.max_new_tokens, decoding.batch_size)
            if not self._adapters and not use_adapter:
                _check_adapter(process, self._save(adapter), prompts[0])
            files = self._save(adapter) if use_adapter else None
            while waiting:
                requests = [_request(index, row, decoding) for index, row in waiting.items()]
                process.send({"adapter": files, "sampling": sampling, "rows": requests})
                again = {}
                for _ in range(len(waiting)):
                    result = process.receive()
                    index, row = int(result["number"]), waiting[int(result["number"])]
                    row.ids += map(int, result["ids"])
                    is_full = len(row.ids) >= decoding.max_new_tokens
                    if result["atStop"] and not is_full and not _counts(tokenizer, row.ids, decoding.stop):
                        again[index] = row
                    else:
                        answers[index] = answer_of(tokenizer, row.ids, ends, decoding.stop)
                        tell(len(answers))
                waiting = again
        except BaseException:
            self.close()  # what vLLM still has to answer is not asked for any more
            raise
        return [answers[index] for index in range(len(prompts))]

    def close(self) -> None:
        """End vLLM's process, which frees its memory."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _ready(self, tokens: int, slots: int) -> VllmProcess:
        """Return a process that answers rows of up to ``tokens`` tokens; start one if there is none."""
        if self._process is not None and tokens <= self._room:
            return self._process
        self.close()
        room = -(-tokens // _ROOM) * _ROOM
        self._room = max(tokens, min(room, self._max_tokens or room))
        settings = self._settings | {"max_model_len": self._room, "max_num_seqs": min(slots, _MAX_ROWS)}
        if self.shares_memory:
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info(self._device)
            settings["gpu_memory_utilization"] = round(_SHARE_OF_FREE_MEMORY * free / total, 3)
        self._process = VllmProcess(self._python, settings, device=self._device, files=Path(self._files.name))
        self.start_seconds += self._process.start_seconds
        return self._process

    def _save(self, adapter: Adapter) -> Mapping[str, Any]:
        """Write the adapter where vLLM reads it, and return its name, number and folder. Only the newest is kept."""
        digest = hashlib.sha256(adapter.flat.detach().cpu().numpy().tobytes()).hexdigest()
        if self._adapters[-1:] != [digest]:
            if self._adapters:
                shutil.rmtree(self._adapter_folder)
            self._adapters.append(digest)
            adapter.save(self._adapter_folder, base_name="base")
        return {"name": digest, "id": len(self._adapters), "path": str(self._adapter_folder)}

    @property
    def _adapter_folder(self) -> Path:
        return Path(self._files.name, f"adapter-{len(self._adapters)}")


def _check_adapter(process: VllmProcess, adapter: Mapping[str, Any], prompt: Sequence[int]) -> None:
    """Let vLLM load an adapter, so that one that it cannot serve fails before it is trained.

    Raises:
        RunFailed: if vLLM cannot load it.
    """
    request = {"number": 0, "ids": list(prompt), "maxTokens": 1, "seed": None}
    process.send({"adapter": adapter, "sampling": {"temperature": 0.0}, "rows": [request]})
    process.receive()


def _request(index: int, row: _Row, decoding: Decoding) -> dict[str, Any]:
    """Return the request for the rest of a row's answer."""
    left = decoding.max_new_tokens - len(row.ids)
    seed = mix(row.seed, len(row.ids)) >> 1 if decoding.temperature else None  # at most 63 bits
    return {"number": index, "ids": [*row.prompt, *row.ids], "maxTokens": left, "seed": seed}


def _counts(tokenizer: Any, ids: Sequence[int], stop: Sequence[str]) -> bool:
    """Return whether an answer may end at a stop string: whether one comes after its first non-space character."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return truncate_at_stop(text, stop) != text
