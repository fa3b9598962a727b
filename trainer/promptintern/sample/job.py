"""Prints a complete job with the data of a sample world: ``python -m promptintern.sample.job --world W --rows N``.

With ``--queries N`` instead of ``--rows N``, the job has no written answers, and learns from its teacher.
"""

import argparse
import sys
from typing import Any

import yaml
from promptintern_api.kind import GROUP, KIND, VERSION

from promptintern.sample import MODEL_URI, sample_template
from promptintern.sample.prose import CUE, EXAMPLE_TEMPLATE

EVAL_ROWS = 1000
"""The number of held-out rows, enough to distinguish a difference of about two percentage points from chance."""
STAGES: tuple[dict[str, float], ...] = (
    {"templateRate": 1, "shots": 3, "epochs": 1},
    {"templateRate": 0.67, "shots": 2, "epochs": 2},
    {"templateRate": 0.33, "shots": 1, "epochs": 4},
    {"templateRate": 0, "shots": 0, "epochs": 32},
)
"""The stages of a linear schedule. Most epochs are in the last stage, whose prompts are short and cheap."""
TAUGHT_STAGES: tuple[dict[str, float], ...] = ({"templateRate": 0, "shots": 0, "epochs": 5},)
"""The stages of a job that learns only from queries. On the sample, further stages before this one change nothing (see
benchmarks/teacher_quality.py)."""


def build_job(*, world: int, rows: int = 0, queries: int = 0, name: str = "quickstart") -> dict[str, Any]:
    """Return the job as plain data. Its settings are for training that takes minutes on a CPU.

    Args:
        rows: The number of training rows, such as 128; if it is 0, the job has none.
        queries: The number of queries without answers, such as 1,000; if it is 0, the job has none.
    """
    counts = {"train": rows, "queries": queries, "eval": EVAL_ROWS}
    data = {
        split: {"uri": f"sample://formulas/{split}?world={world}&rows={count}"}
        for split, count in counts.items()
        if count
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": MODEL_URI, "dtype": "float32"},
            "data": data,
            "prompt": {
                "template": sample_template(world),
                "exampleTemplate": EXAMPLE_TEMPLATE,
                "protect": [CUE],
            },
            "schedule": {"explicit": [dict(stage) for stage in (STAGES if rows else TAUGHT_STAGES)]},
            "training": {
                "lora": {"r": 16, "alpha": 32},
                "learningRate": 0.002,
                "rowsPerBatch": 16,
            },
            "evaluation": {"maxNewTokens": 16, "batchSize": 100},
            "compute": {"device": "CPU"},
        },
    }


class _Readable(yaml.SafeDumper):
    """A YAML dumper that writes text of several lines as a block."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Text that starts with a line break (the cue) is written with an escape, because a block would be hard to read.
    style = '"' if text.startswith("\n") else "|" if "\n" in text.strip("\n") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Readable.add_representer(str, _represent_text)


def render_job(*, world: int, rows: int = 0, queries: int = 0, name: str) -> str:
    """Return the job as YAML, with the template as a readable block."""
    return yaml.dump(
        build_job(world=world, rows=rows, queries=queries, name=name),
        Dumper=_Readable,
        sort_keys=False,
        width=120,
        allow_unicode=True,
    )


def main() -> None:
    """Print the job that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=int, required=True)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--queries", type=int, default=0)
    parser.add_argument("--name", default="quickstart")
    arguments = parser.parse_args()
    if not arguments.rows and not arguments.queries:
        parser.error("give --rows or --queries")
    sys.stdout.write(
        render_job(world=arguments.world, rows=arguments.rows, queries=arguments.queries, name=arguments.name)
    )


if __name__ == "__main__":
    main()
