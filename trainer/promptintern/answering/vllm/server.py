"""Answers prompts with vLLM: the program of the process that `engine.py` starts in the Python environment of vLLM.

It needs nothing but vLLM and the standard library, because the versions that vLLM accepts may not be those of the
trainer. It reads one JSON document per line: first the settings of the engine, then batches of prompts. It writes one
line per answer, in the order in which the answers end, or a line with an error, and then it ends.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO


def main() -> None:
    """Start vLLM, and answer batches until the input ends."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        engine = _start(json.loads(sys.stdin.readline()))
        _write(output, {"ready": True})
        for line in sys.stdin:
            for answer in _answer(engine, json.loads(line)):
                _write(output, answer)
    except Exception as error:
        _write(output, {"error": f"{type(error).__name__}: {error}"})
        raise


def _end_with(parent: int) -> None:
    """End this process once its parent has ended, however that was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _write(output: TextIO, document: dict[str, Any]) -> None:
    output.write(json.dumps(document) + "\n")
    output.flush()


def _start(settings: dict[str, Any]) -> Any:
    from vllm import EngineArgs, LLMEngine
    from vllm.usage.usage_lib import UsageContext

    # As in an offline run of vLLM itself, a step has more tokens than in a server.
    return LLMEngine.from_engine_args(EngineArgs(**settings), usage_context=UsageContext.LLM_CLASS)


def _answer(engine: Any, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the tokens of each answer to the prompts in ``batch`` once it has ended, and whether at a stop string."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    adapter = batch["adapter"]
    lora = LoRARequest(adapter["name"], adapter["id"], adapter["path"]) if adapter else None
    for row in batch["rows"]:
        sampling = SamplingParams(max_tokens=row["maxTokens"], seed=row["seed"], **batch["sampling"])
        prompt = {"prompt_token_ids": row["ids"]}
        engine.add_request(str(row["number"]), prompt, sampling, lora_request=lora)
    while engine.has_unfinished_requests():
        for result in engine.step():
            if result.finished:
                answer = result.outputs[0]
                at_stop = isinstance(answer.stop_reason, str)
                yield {"number": int(result.request_id), "ids": list(answer.token_ids), "atStop": at_stop}


if __name__ == "__main__":
    main()
