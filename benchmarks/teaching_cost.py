"""Measures what the teaching pass costs, compared with an epoch of a first stage that has the teacher's own prompt.

    python -m benchmarks.teaching_cost [--data rows.jsonl] [--queries 256] [--templates 256 2048 8192] [--repeats 2]

The model is the Llama with random weights of benchmarks/training. For each length of the template, the benchmark lets
the model generate an answer to every query, computes the probabilities of the tokens of the rows' own answers (the
answers of a model with random weights do not end), and trains one epoch of these rows at rate 1. The table gives
medians over the repeats, and the smallest and the largest ratio. The lengths take turns.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptintern.engine.train import LrSpan
from promptintern.libraries import quiet_libraries
from promptintern.pipeline.evaluation.held_out import answer_prompts
from promptintern.pipeline.inputs import load_data
from promptintern.pipeline.session import open_session
from promptintern.pipeline.teaching.scoring import score_rows
from promptintern.pipeline.tracks import prepare_track, stage_tracks
from promptintern.pipeline.training import TrackTrainer
from promptintern.storage.background import BackgroundWriter
from promptintern.storage.run import RunStore
from promptintern.storage.store import open_store
from promptintern_api import parse_job
from promptintern_api.training import DEFAULT_TOP_K

from benchmarks.preprocess import rows_of
from benchmarks.quality import Quiet
from benchmarks.training.material import Shape, build_model, fill_template, write_material

EPOCH_ROWS = 32
"""The number of rows in a training step."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one teaching pass and of one epoch, in seconds."""

    rows: int
    answer_tokens: int
    answer_seconds: float
    score_seconds: float
    epoch_seconds: float


def measure(folder: Path, *, data: Path | None, queries: int, template_tokens: int) -> Cost:
    """Measure generation, probabilities and an epoch with the model, the rows and the template of one length."""
    session = open_session(*_job(folder, data=data, queries=queries, template_tokens=template_tokens))
    rows = session.encode_training(session.templates[0], 0)
    began = time.perf_counter()
    prompts = [list(row.prompt_ids) for row in rows]
    answers = answer_prompts(session, prompts, use_adapter=False, name="teacher", observer=Quiet())
    answered = time.perf_counter()
    score_rows(session, rows, DEFAULT_TOP_K)
    scored = time.perf_counter()
    store = RunStore(open_store((folder / "run").as_uri()))
    with BackgroundWriter() as writer:
        trainer = TrackTrainer(session, store, term=store.claim_term({}), observer=Quiet(), writer=writer)
        prepared = prepare_track(session, stage_tracks(session)[0], rows)
        trajectory = trainer.train(prepared, LrSpan(first=0, total=len(prepared.steps)))
    return Cost(
        rows=len(rows),
        answer_tokens=sum(answer.tokens for answer in answers),
        answer_seconds=answered - began,
        score_seconds=scored - answered,
        epoch_seconds=trajectory.seconds,
    )


def _job(folder: Path, *, data: Path | None, queries: int, template_tokens: int) -> Any:
    """Return the job and its rows, after the files that it names were written to ``folder``."""
    from transformers import AutoTokenizer

    write_material(folder, data=data, rows=max(queries, 64), template_tokens=64, stages=1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    model = folder / "model"
    build_model(Shape()).save_pretrained(model)
    tokenizer.save_pretrained(model)
    found = rows_of(data, queries + 4)
    for name, part in (("train", found[:queries]), ("eval", found[queries:])):
        lines = [json.dumps({"query": row.query, "answer": row.answer}) for row in part]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    job = parse_job(
        {
            "apiVersion": "promptintern.dev/v1alpha1",
            "kind": "PromptInternJob",
            "metadata": {"name": "cost"},
            "spec": {
                "model": {"uri": model.as_uri(), "dtype": "float32"},
                "data": {
                    **{name: {"uri": (folder / f"{name}.jsonl").as_uri()} for name in ("train", "eval")},
                    "onLeak": "Drop",
                },
                "prompt": {"template": fill_template(tokenizer, template_tokens) + "\n\nRequest: {query}\nCommand:"},
                "schedule": {
                    "explicit": [
                        {"templateRate": 1, "shots": 0, "epochs": 1},
                        {"templateRate": 0, "shots": 0, "epochs": 1},
                    ]
                },
                "training": {"lora": {"r": 32, "alpha": 64}, "rowsPerBatch": EPOCH_ROWS, "tokensPerBatch": 2**24},
                "evaluation": {"maxNewTokens": 24},
                "compute": {"device": "CPU"},
            },
        }
    )
    return job, load_data(job)


def print_table(costs: dict[int, Sequence[Cost]]) -> None:
    """Print the costs at each template length as Markdown."""
    print("| template | rows | generation, tokens/s | probabilities, s | epoch of stage 1, s | probabilities / epoch |")
    print("|---:|---:|---:|---:|---:|---:|")
    for template, repeats in costs.items():
        ratios = [cost.score_seconds / cost.epoch_seconds for cost in repeats]
        cells = [
            f"{template:,}",
            f"{repeats[0].rows}",
            f"{statistics.median(cost.answer_tokens / cost.answer_seconds for cost in repeats):,.0f}",
            f"{statistics.median(cost.score_seconds for cost in repeats):.2f}",
            f"{statistics.median(cost.epoch_seconds for cost in repeats):.2f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        ]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="JSONL file of rows with query and answer")
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--templates", type=int, nargs="+", default=[256, 2048, 8192])
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    quiet_libraries()
    costs: dict[int, list[Cost]] = {template: [] for template in arguments.templates}
    for repeat in range(arguments.repeats):
        for template in arguments.templates:
            with tempfile.TemporaryDirectory(prefix="promptintern-cost-") as folder:
                cost = measure(Path(folder), data=arguments.data, queries=arguments.queries, template_tokens=template)
            costs[template].append(cost)
            print(f"repeat {repeat + 1}, template of {template} tokens: {cost}", file=sys.stderr, flush=True)
    print_table(costs)


if __name__ == "__main__":
    main()
