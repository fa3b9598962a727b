"""Compares the training speed of this project with that of other trainers, and writes docs/performance.md.

    make bench
    python -m benchmarks.training [--data rows.jsonl] [--only compare alike lengths packs profile workers costs answers]

To measure on a GPU, and to write the page from the measurements on any machine:

    python -m benchmarks.training --shape '{"device": "cuda", "dtype": "bfloat16", ...}' --only ... --json measured.json
    python -m benchmarks.training --render measured.json --name performance-gpu

HF Trainer with PEFT, TRL's SFTTrainer (padded, and packed by bfd) and this project's engine train the same random Llama
with the same LoRA. Each measurement runs in a separate process, and the methods take turns. All steps have the same
rows in the same order, and the losses of the padded methods and of this engine are compared step by step. Only the
steps of packed TRL have other rows, so their time is scaled to the same number of tokens.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.preprocess import machine
from benchmarks.training.alike import alike
from benchmarks.training.answering import answering
from benchmarks.training.compare import NAMES, Setting, compare, is_same_training, other_trainings
from benchmarks.training.document import document
from benchmarks.training.lengths import by_pack, by_template
from benchmarks.training.material import MADE_UP, shape_of, text_of, write_material
from benchmarks.training.plot import plot
from benchmarks.training.processes import in_new_process
from benchmarks.training.profile import PACK, gpu_name, shares, threads
from benchmarks.training.run_costs import run_costs
from benchmarks.training.workers import scaling

PARTS = ("compare", "alike", "lengths", "packs", "profile", "workers", "costs", "answers")
PACKS = {"cpu": [1024, 2048, 4096, 8192, 16384], "cuda": [4096, 8192, 16384, 32768]}
DOCS = Path("docs")


def main() -> None:
    """Measure or read the measurements, and write them, the performance page and its plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="JSONL file of queries and answers (default: made-up rows)")
    parser.add_argument("--template-tokens", type=int, default=380)
    parser.add_argument(
        "--stages",
        type=int,
        nargs="+",
        choices=range(4),
        default=[0, 1, 2, 3],
        help="stages to measure, of a schedule of four",
        metavar="STAGE",
    )
    parser.add_argument("--rows", type=int, default=64, help="rows in an optimizer step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--templates", type=int, nargs="+", default=[256, 1024, 2048, 8192])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--shape", default="{}", help="JSON of the fields of the model's shape that are not the default"
    )
    parser.add_argument("--json", type=Path, help="write the measurements to this file, and no page")
    parser.add_argument("--render", type=Path, nargs="+", help="write the page of these measurements")
    parser.add_argument("--name", default="performance", help="name of the page, its plot and its measurements")
    arguments = parser.parse_args()
    if arguments.render:
        measured = merge_parts([json.loads(path.read_text()) for path in arguments.render])
    else:
        began = time.monotonic()
        measured = measure(arguments)
        measured["minutes"] = round((time.monotonic() - began) / 60, 1)
    text = json.dumps(measured, indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    elif arguments.render or set(arguments.only) == set(PARTS):
        (DOCS / f"{arguments.name}.json").write_text(text + "\n")
        (DOCS / f"{arguments.name}.md").write_text(document(measured, name=arguments.name))
        plot(measured, DOCS / f"{arguments.name}.svg")
    print(document(measured, name=arguments.name))
    dtype = measured["shape"]["dtype"]
    wrong = other_trainings([Setting(**each) for each in measured.get("compare", [])], dtype)
    if wrong:
        sys.exit(
            f"in stages {', '.join(str(stage + 1) for stage in wrong)} ours did not train as the padded methods did"
        )
    for method, each in measured.get("alike", {}).items():
        if not is_same_training((each["losses"], each["norms"]), dtype):
            sys.exit(f"ours did not train as {NAMES[method]} did over several steps")


def merge_parts(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the parts that separate runs of this benchmark measured with the same settings."""
    shared_keys = ("machine", "data", "shape", "rows", "template")
    assert all(part[key] == parts[0][key] for part in parts for key in shared_keys), (
        "the measurements have different settings"
    )
    return {key: value for part in parts for key, value in part.items()} | {
        "minutes": round(sum(part["minutes"] for part in parts), 1),
        "rounds": {
            key: max(part["rounds"][key] for part in parts if key in part)
            for key in PARTS
            if any(key in part for part in parts)
        },
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts in ``arguments.only``, and return their measurements by part, with the settings."""
    shape = shape_of(arguments.shape)
    measured: dict[str, Any] = {
        "machine": machine() | {name: version(name) for name in ("peft", "trl", "accelerate")},
        "data": MADE_UP if arguments.data is None else f"{arguments.data.parent.name}/{arguments.data.name}",
        "shape": json.loads(text_of(shape)),
        "rows": arguments.rows,
        "template": arguments.template_tokens,
        "threads": in_new_process(threads),
    }
    if shape.device != "cpu":
        measured["machine"]["gpu"] = in_new_process(gpu_name)
    few = max(1, arguments.repeats - 1)
    measured["rounds"] = dict.fromkeys(PARTS, few) | {
        "compare": arguments.repeats,
        "lengths": arguments.repeats,
        "costs": max(1, few - 1),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        material = folder / "material"
        material.mkdir()
        write_material(material, data=arguments.data, rows=1500, template_tokens=arguments.template_tokens, stages=4)
        if "compare" in arguments.only:
            settings = compare(
                material,
                shape,
                stages=arguments.stages,
                rows=arguments.rows,
                repeats=arguments.repeats,
                methods=arguments.methods,
            )
            measured["compare"] = [setting.__dict__ for setting in settings]
        if "alike" in arguments.only:
            measured["alike"] = {method: asdict(each) for method, each in alike(material, shape).items()}
        if "lengths" in arguments.only:
            lengths = by_template(
                folder,
                shape,
                data=arguments.data,
                templates=arguments.templates,
                rows=arguments.rows,
                repeats=arguments.repeats,
            )
            measured["lengths"] = [asdict(length) for length in lengths]
        if "packs" in arguments.only:
            packs = by_pack(
                material,
                shape,
                packs=PACKS[shape.device],
                rows=arguments.rows,
                repeats=few,
            )
            measured["packs"] = [asdict(length) for length in packs]
        if "profile" in arguments.only:
            measured["profile"] = {
                kind: asdict(spent) for kind, spent in shares(material, shape, rows=arguments.rows).items()
            }
        if "workers" in arguments.only:
            measured["workers"] = scaling(material, shape, rows=arguments.rows, pack=PACK["cpu"], repeats=few)
        if "costs" in arguments.only:
            measured["costs"] = asdict(
                run_costs(material / "tokenizer", shape, data=arguments.data, repeats=measured["rounds"]["costs"])
            )
        if "answers" in arguments.only:
            answers = answering(material, shape, repeats=few, last=3)
            measured["answers"] = {kind: asdict(each) for kind, each in answers.items()}
    return measured


if __name__ == "__main__":
    main()
