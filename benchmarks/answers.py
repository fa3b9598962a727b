"""Answers per second, against transformers' static batches and its continuous batching, with the same rows.

    python -m benchmarks.answers [--model DIR] [--rows 96] [--repeats 3] [--json FILE]

The prompts are those of the NL2Bash task of `benchmarks/real`: its template, the three training rows nearest to each
query, and the query. An answer ends at a token with a line feed, at the model's end token, or after 64 tokens. Every
method gets the same token ids, weights, data type and threads. Static batches get the prompts in the order of their
length, and the best of several batch sizes counts. The methods take turns, so that a change of the machine's speed
meets all of them.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.real.models import SOURCES, model_folder
from benchmarks.real.tasks import DATA, TASKS

_NEW_TOKENS = 64
_STATIC = (16, 32, 64)
OURS, STATIC, CONTINUOUS = "ours", "transformers, static batches", "transformers, continuous batching"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all methods get."""

    model: Any
    tokenizer: Any
    prompts: Sequence[Sequence[int]]
    ends: Sequence[int]
    """The tokens that end an answer."""


def main() -> int:
    """Measure, and print a table; return 1 if a method gives other answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder of safetensors (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--shots", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--skip", nargs="*", default=[], help="methods to leave out, by a part of their name")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    folder = options.model or model_folder(SOURCES["SmolLM2-135M-Instruct"])
    setting = prepare(folder, rows=options.rows, shots=options.shots, device=options.device)
    methods = {
        OURS: ours,
        **{f"{STATIC} of {size}": static(size) for size in _STATIC},
        CONTINUOUS: continuous,
    }
    methods = {name: run for name, run in methods.items() if not any(part in name for part in options.skip)}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    answers: dict[str, list[str]] = {}
    for repeat in range(options.repeats):
        for name, run in methods.items():
            began = time.perf_counter()
            answers[name] = run(setting)
            seconds[name].append(time.perf_counter() - began)
            print(f"round {repeat + 1}: {name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    figures = figures_of(setting, seconds, answers, folder)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))
    return 1 if min(method["equalAnswers"] for method in figures["methods"].values()) < 0.99 else 0


def prepare(folder: Path, *, rows: int, shots: int, device: str) -> Setting:
    """Load the model, and encode the prompts."""
    import torch
    from promptintern.retrieve.bm25 import BM25Index
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task = TASKS["nl2bash"]
    train, held_out = (
        [json.loads(line) for line in (DATA / task.folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "dev")
    )
    train, held_out = train[: task.train], held_out[:rows]
    index = BM25Index([row["query"] for row in train])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    prompts = []
    for row in held_out:
        nearest = [train[i] for i in reversed(index.top(row["query"], shots))]  # the nearest one comes last
        examples = "".join(
            task.example.replace("{query}", each["query"]).replace("{answer}", each["answer"]) for each in nearest
        )
        text = task.template.replace("{examples}", examples).replace("{query}", row["query"])
        prompts.append(tokenizer(text)["input_ids"])
    line_feeds = [token for token in range(len(tokenizer)) if "\n" in tokenizer.decode([token])]
    ends = sorted({tokenizer.eos_token_id, *line_feeds})
    model.generation_config.eos_token_id = ends
    return Setting(model=model, tokenizer=tokenizer, prompts=prompts, ends=ends)


def ours(setting: Setting) -> list[str]:
    """Return our answers."""
    from promptintern.answering.answers import Decoding
    from promptintern.answering.generate import generate

    decoding = Decoding(max_new_tokens=_NEW_TOKENS)
    device = setting.model.device
    answers = generate(setting.model, setting.tokenizer, setting.prompts, decoding=decoding, device=device)
    return [answer.text for answer in answers]


def static(size: int) -> Callable[[Setting], list[str]]:
    """Return a function that answers in batches of ``size`` prompts of similar length, padded on the left."""

    def run(setting: Setting) -> list[str]:
        import torch
        from transformers import GenerationConfig

        pad, device = setting.tokenizer.pad_token_id or setting.tokenizer.eos_token_id, setting.model.device
        config = GenerationConfig(
            max_new_tokens=_NEW_TOKENS, do_sample=False, eos_token_id=list(setting.ends), pad_token_id=pad
        )
        order = sorted(range(len(setting.prompts)), key=lambda i: len(setting.prompts[i]))
        found: dict[int, list[int]] = {}
        for start in range(0, len(order), size):
            batch = [setting.prompts[i] for i in order[start : start + size]]
            width = max(map(len, batch))
            ids = torch.tensor([[*[pad] * (width - len(p)), *p] for p in batch], device=device)
            mask = torch.tensor([[*[0] * (width - len(p)), *[1] * len(p)] for p in batch], device=device)
            with torch.inference_mode():
                output = setting.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            found |= dict(zip(order[start : start + size], output[:, width:].tolist(), strict=True))
        return [text_of(setting, found[i]) for i in range(len(order))]

    return run


def continuous(setting: Setting) -> list[str]:
    """Answer with transformers' continuous batching."""
    from transformers import GenerationConfig

    pad = setting.tokenizer.pad_token_id or setting.tokenizer.eos_token_id
    config = GenerationConfig(
        max_new_tokens=_NEW_TOKENS, do_sample=False, eos_token_id=list(setting.ends), pad_token_id=pad
    )
    before = setting.model.config._attn_implementation
    try:
        found = setting.model.generate_batch(inputs=[list(p) for p in setting.prompts], generation_config=config)
    finally:
        setting.model.set_attn_implementation(before)
    in_order = sorted(found.items(), key=lambda item: int(item[0].rsplit("_", 1)[-1]))
    return [text_of(setting, output.generated_tokens) for _, output in in_order]


def text_of(setting: Setting, ids: Sequence[int]) -> str:
    """Return the text of the generated tokens before the first one that ends an answer."""
    ends = {*setting.ends, setting.tokenizer.pad_token_id}
    length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    text: str = setting.tokenizer.decode(
        list(ids)[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def figures_of(
    setting: Setting, seconds: dict[str, list[float]], answers: dict[str, list[str]], folder: Path
) -> dict[str, Any]:
    """Return the figures of all methods, and what they were measured with."""
    import torch
    import transformers

    reference = next(name for name in answers if name.startswith(STATIC))
    count = len(setting.prompts)
    lengths = [len(setting.tokenizer(text)["input_ids"]) for text in answers[reference]]
    return {
        "model": folder.name,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {setting.model.device}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "dtype": str(setting.model.dtype).removeprefix("torch."),
        "rows": count,
        "promptTokens": round(statistics.mean(map(len, setting.prompts)), 1),
        "answerTokens": {
            "mean": round(statistics.mean(lengths), 1),
            "median": statistics.median(lengths),
            "max": max(lengths),
        },
        "methods": {
            name: {
                "answersPerSecond": [round(count / each, 3) for each in times],
                "equalAnswers": round(
                    sum(a == b for a, b in zip(answers[name], answers[reference], strict=True)) / count, 4
                ),
                "different": [
                    {"row": i, "answer": a, "reference": b}
                    for i, (a, b) in enumerate(zip(answers[name], answers[reference], strict=True))
                    if a != b
                ],
            }
            for name, times in seconds.items()
        },
    }


def table(figures: dict[str, Any]) -> str:
    """Return the figures as a table in Markdown."""
    best = max(
        statistics.median(method["answersPerSecond"]) for name, method in figures["methods"].items() if name != OURS
    )
    lengths = figures["answerTokens"]
    lines = [
        f"{figures['model']}, {figures['dtype']}, {figures['machine']}, torch {figures['versions']['torch']}, "
        f"transformers {figures['versions']['transformers']}: {figures['rows']} prompts of {figures['promptTokens']} "
        f"tokens on average; answers of {lengths['mean']} tokens on average, median {lengths['median']}, at most "
        f"{lengths['max']}.",
        "",
        "| method | answers per second: median (least to most) | against the best of transformers | equal answers |",
        "|---|---|---|---|",
    ]
    for name, method in figures["methods"].items():
        rates = method["answersPerSecond"]
        middle = statistics.median(rates)
        lines.append(
            f"| {name} | {middle:.2f} ({min(rates):.2f} to {max(rates):.2f}) | {middle / best:.2f} | "
            f"{method['equalAnswers']:.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
