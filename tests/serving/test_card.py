"""An adapter is served by vLLM exactly as its card says, and gives the answers of `predict`."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from promptintern.sample import MODEL_URI, sample_model_path, sample_rows

from tests.cluster.client import wait_for
from tests.cluster.control_plane import free_port
from tests.runner import Runner
from tests.serving.environment import vllm_program
from tests.tiny import THINK, append_end_token, set_generation_defaults

HELD_OUT = "sample://formulas/eval?world=1&rows=24"
_START_SECONDS = 500


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("is_chat", [False, True])
def test_vllm_gives_the_answers_of_predict(runner: Runner, is_chat: bool) -> None:
    """The base model has penalties by default, its tokenizer adds an end token, and its template thinks."""
    program = vllm_program()
    if program is None:
        pytest.skip("vLLM is not installed; `make serving` installs it")
    model = runner.folder / "model"
    shutil.copytree(sample_model_path(MODEL_URI), model)
    set_generation_defaults(model)
    append_end_token(model)
    if is_chat:
        (model / "chat_template.jinja").write_text(THINK)
    ran = runner.run(sample_job(model, chat=is_chat))
    assert ran.code == 0, ran.err
    queries = [row["query"] for row in sample_rows(HELD_OUT)]
    expected = runner.predictions("QueryOnly")
    assert len(set(expected)) > len(expected) // 2, "the answers must differ, or a mistake would not show"

    card = (runner.output / "adapter/README.md").read_text()
    with serving(card, program, adapter=runner.output / "adapter", log=runner.folder / "vllm.log") as url:
        answers = [ask(card, json.loads(runner.card_block("json")), url, query) for query in queries]
    assert answers == expected


def sample_job(model: Path, *, chat: bool) -> dict[str, Any]:
    """Return a job that internalizes a short prompt in one stage."""
    template = "Write the formula of the question. Write the function first, then its columns.\n{query}\n="
    return {
        "apiVersion": "promptintern.dev/v1alpha1",
        "kind": "PromptInternJob",
        "metadata": {"name": "served"},
        "spec": {
            "model": {"uri": model.as_uri(), "dtype": "float32"},
            "data": {
                "train": {"uri": "sample://formulas/train?world=1&rows=32"},
                "eval": {"uri": HELD_OUT},
            },
            "prompt": {"template": template, "chat": chat, "protect": ["\n="]},
            "schedule": {"explicit": [{"templateRate": 0, "shots": 0, "epochs": 8}]},
            "training": {"lora": {"r": 4, "alpha": 8}, "learningRate": 0.002, "rowsPerBatch": 16},
            "evaluation": {"maxNewTokens": 12, "stop": [",", "\n"], "arms": ["FullPrompt", "QueryOnly"]},
            "compute": {"device": "CPU"},
        },
    }


@contextmanager
def serving(card: str, program: Path, *, adapter: Path, log: Path) -> Iterator[str]:
    """Run the card's command, and return the address of the server once it answers."""
    (line,) = [line for line in card.splitlines() if line.startswith("vllm serve ")]
    command = shlex.split(line.replace("FOLDER_OF_THIS_FILE", shlex.quote(str(adapter))))
    port = free_port()
    here = ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as output:
        server = subprocess.Popen(
            [program, *command[1:], *here], env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            wait_for(lambda: is_ready(server, url, log), _START_SECONDS, f"vLLM, which writes to {log}")
            yield url
        finally:
            end(server)


def end(server: subprocess.Popen[bytes]) -> None:
    """End the server and its processes, which are a group of their own."""
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def is_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    """Return True once the server answers. Until then, its refusals are raised."""
    assert server.poll() is None, f"vLLM has ended:\n{log.read_text()[-5000:]}"
    urllib.request.urlopen(f"{url}/health", timeout=5).close()
    return True


def ask(card: str, body: dict[str, Any], url: str, query: str) -> str:
    """Send the card's request ``body`` for ``query`` to the path that the card names, and return the answer."""
    (path,) = {path for path in ("/v1/completions", "/v1/chat/completions") if f"`{path}`" in card}
    for holder in (body, *body.get("messages", [])):
        for key, value in holder.items():
            if isinstance(value, str):
                holder[key] = value.replace("{query}", query)
    request = urllib.request.Request(
        f"{url}{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        choice = json.loads(response.read())["choices"][0]
    answer: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return answer
