"""The tasks on which pretrained models are measured. Their settings were chosen once, and not by held-out rows."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[3] / "shared" / "data"
_ARMS = ["FullPrompt", "QueryOnly", "Direct", "Base", "FullPromptTuned", "TemplateOnly", "CompressedOnly"]
_ARMS_OF_FURTHER_SEEDS = ["FullPrompt", "QueryOnly", "Direct", "Base", "FullPromptTuned"]
"""The arms that a seed changes, and those with which they are compared."""
_ARMS_WITH_TEACHER = ["FullPrompt", "QueryOnly", "Direct", "Base"]
"""Direct learns only from the written answers, so it tells what the queries without answers add."""
_WRITTEN_ANSWERS = 16
"""The number of training rows with answers if a teacher answers the others."""

_BASH = """You translate a request in English into one Bash command line.
Rules:
- Write the command alone, on one line, without a prompt sign and without an explanation.
- Prefer standard tools: find, grep, sed, awk, sort, xargs, tar, ssh, rsync, cut, head, tail, wc, chmod, chown.
- Keep file names, host names, numbers and quoted text from the request exactly as they are written there.
- If the request names no folder, work in the current one.
- If the request asks for files by name, use -name, or -iname where upper and lower case do not matter.
- If a command needs the result of another one, use a pipe, xargs or $(...), and not a file in between.

{examples}Request: {query}
Command:"""
_PYTHON = """You write one Python function for each task.
Rules:
- Use only the standard library of Python 3.
- Write the code alone, without an explanation, an example call or a test.
- Choose a short name for the function that says what it does, and take the arguments in the order in which the task
  names them.
- Return the result. Do not print it.

{examples}Task: {query}
Code:
"""
_REGEX = """You write one regular expression that matches the lines which a sentence describes.
Notation:
- . is any character, [A-Z] a capital letter, [a-z] a small letter, [0-9] a number, [AEIOUaeiou] a vowel.
- (a)|(b) is a or b, (a)&(b) is both, ~(a) is not a, (a).*(b) is a before b.
- (a)+ is one or more, (a)* is zero or more, (a){n,} is at least n times.
- \\b(a)\\b is a word that is a; dog, ring and truck are words.
- Write the expression alone.

{examples}Sentence: {query}
Expression:"""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task: its rows, its prompt, and how answers are judged."""

    name: str
    title: str
    folder: str
    template: str
    example: str
    """The template of an example in the prompt."""
    ending: str
    """The end of the template, which is never removed, so that the model knows where its answer begins."""
    metrics: tuple[str, ...]
    stop: tuple[str, ...]
    max_new_tokens: int
    columns: dict[str, str]
    train: int
    held_out: int


TASKS = {
    task.name: task
    for task in (
        Task(
            name="nl2bash",
            title="NL2Bash: English to Bash commands",
            folder="nl2bash",
            template=_BASH,
            example="Request: {query}\nCommand: {answer}\n\n",
            ending="\nCommand:",
            metrics=("BashTemplate", "ExactMatch", "ChrF"),
            stop=("\n",),
            max_new_tokens=64,
            columns={},
            train=256,
            held_out=300,
        ),
        Task(
            name="mbpp",
            title="MBPP: English to Python functions",
            folder="mbpp",
            template=_PYTHON,
            example="Task: {query}\nCode:\n{answer}\n\n",
            ending="\nCode:\n",
            metrics=("PassAt1", "ChrF"),
            stop=("\nTask:", "\n\n\n"),
            max_new_tokens=256,
            columns={"tests": "tests", "testSetup": "test_setup_code"},
            train=256,
            held_out=90,
        ),
        Task(
            name="nlrx",
            title="NL-RX: English to regular expressions",
            folder="nlrx",
            template=_REGEX,
            example="Sentence: {query}\nExpression: {answer}\n\n",
            ending="\nExpression:",
            metrics=("ExactMatch", "ChrF"),
            stop=("\n",),
            max_new_tokens=48,
            columns={},
            train=256,
            held_out=300,
        ),
    )
}


def write_queries(task: Task, file: Path, *, train: int) -> None:
    """Write the queries of the training rows whose answers a teacher gives, as JSONL."""
    lines = (DATA / task.folder / "train.jsonl").read_text().splitlines()[_WRITTEN_ANSWERS:train]
    file.write_text("".join(json.dumps({"query": json.loads(line)["query"]}) + "\n" for line in lines))


def job_of(
    task: Task,
    *,
    name: str,
    model: Path,
    seed: int,
    train: int,
    held_out: int,
    device: str,
    dtype: str,
    queries: Path | None = None,
) -> dict[str, Any]:
    """Return the job of one run.

    Args:
        task: The task.
        name: The name of the job.
        model: The folder of the base model.
        seed: The seed of the training.
        train: The number of training rows.
        held_out: The number of held-out rows.
        device: The field spec.compute.device.
        dtype: The field spec.model.dtype.
        queries: A file of queries that the base model with the full prompt answers, in place of the answers of all
            training rows but the first 16; None to learn from written answers alone.
    """
    columns = {"columns": task.columns} if task.columns else {}
    arms = _ARMS if seed == 0 else _ARMS_OF_FURTHER_SEEDS
    taught = {} if queries is None else {"queries": {"uri": f"file://{queries}"}}
    if queries is not None:
        arms, train = _ARMS_WITH_TEACHER, _WRITTEN_ANSWERS
    return {
        "apiVersion": "promptintern.dev/v1alpha1",
        "kind": "PromptInternJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": f"file://{model}", "dtype": dtype},
            "data": {
                "train": {"uri": f"file://{DATA / task.folder}/train.jsonl", "limit": train},
                **taught,
                "eval": {"uri": f"file://{DATA / task.folder}/dev.jsonl", "limit": held_out, **columns},
                "onLeak": "Drop",
            },
            "prompt": {
                "template": task.template,
                "exampleTemplate": task.example,
                "protect": [task.ending],
            },
            "schedule": {"stages": 3, "shots": 3},
            "training": {
                "seed": seed,
                "lora": {"r": 16, "alpha": 32},
                "learningRate": 0.0003,
                "epochsPerStage": 2,
                "rowsPerBatch": 8,
            },
            "evaluation": {
                "metrics": list(task.metrics),
                "arms": arms,
                "maxNewTokens": task.max_new_tokens,
                "stop": list(task.stop),
                "stageRows": min(64, held_out),
                "batchSize": 32,
                "latencyQueries": 5,
            },
            "compute": {"device": device},
        },
    }
