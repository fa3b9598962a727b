"""The vLLM engine as the trainer sees it: prompts and an adapter go in, answers come out."""

import json
import os
import subprocess
import tempfile
import weakref
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
from promptintern.answering.vllm.environment import FIELD, vllm_environment
from promptintern.engine.adapter import Adapter
from promptintern.engine.seeding import mix
from promptintern.errors import RunFailed

_SERVER = Path(__file__).with_name("server.py")
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for the maximum rank of adapters."""
_ROOM = 256
"""The length of the longest row is rounded up to a multiple of this number, so that few calls need a new engine."""
_SHARE_OF_FREE_MEMORY = 0.9
_LOG_BYTES = 8192
"""The size of the end of vLLM's log in which the reason for its end is sought."""


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
        self, *, python: Path, model: Path, dtype: str, rank: int, max_tokens: int | None, device: torch.device
    ) -> None:
        """Remember the settings.

        Args:
            python: The Python program of the environment that has vLLM.
            model: The folder of the base model.
            dtype: The type of the base weights.
            rank: The largest rank of the adapter's layers.
            max_tokens: The context length of the model; None if it has no limit.
            device: The device of the model.
        """
        self._python, self._device, self._max_tokens = python, device, max_tokens
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
        self.version = ""
        """The version of vLLM; empty before it has started."""
        self._process: subprocess.Popen[str] | None = None
        self._room = 0
        self._files = tempfile.TemporaryDirectory(prefix="promptintern-vllm-")
        self._adapters = 0

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
        self._require(max(map(len, prompts)) + decoding.max_new_tokens, decoding.batch_size)
        ends = end_tokens(adapter.model, tokenizer, decoding.ends)
        rows = {
            index: _Row(prompt=prompt, seed=mix(*decoding.seed, number) >> 1, ids=[])
            for index, (prompt, number) in enumerate(zip(prompts, numbers, strict=True))
        }
        sampling = {"temperature": decoding.temperature, "stop": list(decoding.stop), "stop_token_ids": sorted(ends)}
        files = self._save(adapter) if use_adapter else None
        tell = tell_in_batches(len(prompts), decoding.batch_size, progress)
        answers: dict[int, Answer] = {}
        waiting = rows
        try:
            while waiting:
                self._send(
                    {
                        "adapter": files,
                        "sampling": sampling,
                        "rows": [_request(index, row, decoding) for index, row in waiting.items()],
                    }
                )
                again = {}
                for _ in range(len(waiting)):
                    result = self._receive()
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
            _end(self._process)
            self._process = None

    def _require(self, tokens: int, slots: int) -> None:
        """Make sure that a process runs whose rows may have so many ``tokens``."""
        if self._process is not None and tokens <= self._room:
            return
        self.close()
        room = -(-tokens // _ROOM) * _ROOM
        self._room = max(tokens, min(room, self._max_tokens or room))
        settings = self._settings | {"max_model_len": self._room, "max_num_seqs": slots}
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info(self._device)
            settings["gpu_memory_utilization"] = round(_SHARE_OF_FREE_MEMORY * free / total, 3)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [self._python, "-I", _SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=vllm_environment(os.environ, self._device, Path(self._files.name)),
                text=True,
                start_new_session=True,
            )
        weakref.finalize(self, _end, self._process)
        self._send(settings)
        self.version = str(self._receive()["version"])

    @property
    def _log(self) -> Path:
        return Path(self._files.name, "log")

    def _save(self, adapter: Adapter) -> Mapping[str, Any]:
        """Write the adapter where vLLM reads it, and return its name, number and folder."""
        self._adapters += 1
        folder = Path(self._files.name, f"adapter-{self._adapters}")
        adapter.save(folder, base_name="base")
        return {"name": folder.name, "id": self._adapters, "path": str(folder)}

    def _send(self, document: Mapping[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(document) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("") from None

    def _receive(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        document: dict[str, Any] = json.loads(line) if line else {}
        if "error" in document or not line:
            raise self._failure(str(document.get("error", "")))
        return document

    def _failure(self, reason: str) -> RunFailed:
        lines = self._log.read_bytes()[-_LOG_BYTES:].decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
        why = (reason.strip() or last).splitlines()[0]
        return RunFailed(f"vLLM ended ({why}); set {FIELD}: PyTorch to answer without it")


def _request(index: int, row: _Row, decoding: Decoding) -> dict[str, Any]:
    """Return the request for the rest of a row's answer."""
    left = decoding.max_new_tokens - len(row.ids)
    seed = mix(row.seed, len(row.ids)) >> 1 if decoding.temperature else None  # at most 63 bits
    return {"number": index, "ids": [*row.prompt, *row.ids], "maxTokens": left, "seed": seed}


def _counts(tokenizer: Any, ids: Sequence[int], stop: Sequence[str]) -> bool:
    """Return whether an answer may end at a stop string: whether one comes after its first non-space character."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return truncate_at_stop(text, stop) != text


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
