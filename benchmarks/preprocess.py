"""Measures the cost per row of preparing the prompts of 10^3, 10^4 and 10^5 rows.

    python benchmarks/preprocess.py [--sizes 1000 10000 100000] [--repeats 3] [--data rows.jsonl] [--json out.json]

The phases are: retrieve examples, compress the template, render the prompts, tokenize them. Each measurement runs in a
separate process on one thread, the sizes take turns, and the table shows medians. By default, the rows are synthetic:
13-word queries and 8-word answers over a Zipfian vocabulary. They lack the word order and topics of real text, which
makes retrieval hard. With --data, the rows come from a file; if the file is too short, each further row is spliced from
two of its rows. Phases are measured in CPU time, which excludes other programs on the machine; "wall" is elapsed time.
Memory is the peak resident set of the process.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

SHOTS = 5
STAGES = 4
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
PHASES = ("retrieve", "compress", "render and tokenize")
INSTRUCTIONS = (
    "You translate a request in English into exactly one command of the Bash shell. Use standard tools only, such as "
    "find, grep, sed, awk, sort, xargs and tar, and prefer one pipeline to several commands. Quote every name that may "
    "hold a space. Never ask back, never explain, and write nothing but the command itself. If the request names no "
    "folder, work in the current one. If it could be read in two ways, take the one that changes fewer files. "
)
TEMPLATE = INSTRUCTIONS + "These are some requests and their commands.\n\n{examples}Request: {query}\nCommand:"
EXAMPLE = "Request: {query}\nCommand:{answer}\n\n"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The measurements of one process, which prepares the prompts of ``rows`` rows."""

    rows: int
    cpu_seconds: dict[str, float]
    wall_seconds: float
    peak_mib: float
    loaded_mib: float
    """The peak memory in MiB before the first phase, when libraries, rows, tokenizer and model are loaded."""
    tokens: int
    """The total number of prompt and answer tokens over all stages."""
    agreement: float
    """The share of the retrieved examples that an exhaustive search also retrieves, for a sample of queries."""


def main() -> None:
    """Measure all sizes in separate processes, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, help="JSONL file of rows with query and answer")
    parser.add_argument("--json", type=Path, help="also write the measurements here")
    parser.add_argument("--measure", type=int, metavar="ROWS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(asdict(measure(arguments.measure, arguments.data))))
        return
    measured: dict[int, list[dict[str, Any]]] = {size: [] for size in arguments.sizes}
    ascending = sorted(arguments.sizes)
    for repeat in range(arguments.repeats):
        # Sizes go up and down again, so that slow moments of the machine do not affect only the large sizes.
        for size in (*ascending, *ascending[-2::-1]):
            print(f"repeat {repeat + 1} of {arguments.repeats}: {size} rows", file=sys.stderr, flush=True)
            measured[size].append(in_fresh_process(size, arguments.data))
    document = {"machine": machine(), "data": str(arguments.data or "synthetic"), "measurements": measured}
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2))
    print(report(measured))
    print(json.dumps(document["machine"]))


def in_fresh_process(rows: int, data: Path | None) -> dict[str, Any]:
    """Measure ``rows`` rows in a child process, so that earlier measurements leave no caches and no memory."""
    command = [sys.executable, __file__, "--measure", str(rows), *(["--data", str(data)] if data else [])]
    completed = subprocess.run(command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return result


def measure(count: int, data: Path | None) -> Measurement:
    """Prepare the prompts of ``count`` rows as a run does, and return the measurements of all phases."""
    from promptintern.compress import build_compressor
    from promptintern.prompt.encode import PromptEncoder
    from promptintern.prompt.render import render_prompt
    from promptintern.retrieve import build_retriever
    from promptintern.schedule import build_stages
    from promptintern_api.prompt import PromptSpec
    from promptintern_api.schedule import ScheduleSpec
    from promptintern_api.training import TrainingSpec

    rows = rows_of(data, count)
    tokenizer = small_tokenizer()
    model = small_model(len(tokenizer))
    spec = PromptSpec(template=TEMPLATE, example_template=EXAMPLE, protect=["\nCommand:"])
    stages = build_stages(ScheduleSpec(stages=STAGES, shots=SHOTS), TrainingSpec())
    encoder = PromptEncoder(tokenizer, chat=False)
    queries, answers = [row.query for row in rows], [row.answer for row in rows]
    encoder.encode(queries[:200], answers[:200])  # initialization at first use is not a cost per row
    build_retriever(spec.retriever, rows[:200], seed=0).neighbours(queries[:200], SHOTS)
    loaded, clock, started = peak_mib(), Clock(), time.perf_counter()

    neighbours = clock.time(
        "retrieve", lambda: build_retriever(spec.retriever, rows, seed=0).neighbours(queries, SHOTS)
    )
    with tempfile.TemporaryDirectory() as cache:
        compressor = build_compressor(spec, tokenizer=tokenizer, model=model, cache_dir=Path(cache))
        templates = clock.time("compress", lambda: [compressor.compress(stage.rate) for stage in stages])
    tokens = 0
    kept: list[Any] = []
    for stage, template in zip(stages, templates, strict=True):

        def render(shots: int = stage.shots, template: Any = template) -> Iterator[str]:
            return (
                render_prompt(
                    template,
                    query=query,
                    examples=[rows[i] for i in near[len(near) - shots :]],
                    example_template=EXAMPLE,
                )
                for query, near in zip(queries, neighbours, strict=True)
            )

        encoded = clock.time("render and tokenize", partial(encoder.encode, render(), answers))
        tokens += sum(len(row.prompt_ids) + len(row.answer_ids) for row in encoded)
        kept = [*kept[-1:], encoded]  # like a run, which prepares the next stage while the current one trains
    return Measurement(
        rows=count,
        cpu_seconds=clock.seconds,
        wall_seconds=time.perf_counter() - started,
        peak_mib=peak_mib(),
        loaded_mib=loaded,
        tokens=tokens,
        agreement=agreement(rows, neighbours),
    )


class Clock:
    """A clock that adds up the CPU time of each phase in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)

    def time(self, phase: str, work: Callable[[], T]) -> T:
        """Call ``work``, add its CPU time to ``phase``, and return its result."""
        start = time.process_time()
        result = work()
        self.seconds[phase] += time.process_time() - start
        return result


def agreement(rows: Sequence[Any], neighbours: Sequence[Sequence[int]], sample: int = 200) -> float:
    """Return the share of a row's neighbours that an exhaustive search also finds, averaged over ``sample`` rows."""
    from promptintern.retrieve.bm25 import BM25Index
    from promptintern.retrieve.pool import Pool, Retriever

    pool = Pool.of(rows)
    index = BM25Index(pool.texts, max_postings=2**62)
    exhaustive = Retriever(pool, lambda queries, k: (index.top(query, k) for query in queries))
    sampled = range(0, len(rows), max(1, len(rows) // sample))
    exact = exhaustive.neighbours([rows[i].query for i in sampled], SHOTS)
    return statistics.mean(len(set(best) & set(neighbours[i])) / SHOTS for i, best in zip(sampled, exact, strict=True))


def synthetic_rows(count: int) -> list[Any]:
    """Return rows over 60,000 synthetic words, with Zipf-Mandelbrot frequencies and Poisson-distributed lengths."""
    import numpy as np

    draw = np.random.default_rng(0)
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    words = np.array(
        ["".join(draw.choice(syllables, size=1 + min(3, rank.bit_length() // 4))) for rank in range(60_000)]
    )
    weights = 1 / (np.arange(len(words)) + 2.7) ** 1.07
    lengths = 1 + draw.poisson([[12, 7]] * count)
    drawn = iter(draw.choice(words, size=int(lengths.sum()), p=weights / weights.sum()).tolist())
    return [
        as_row(i, " ".join(next(drawn) for _ in range(q)), " " + " ".join(next(drawn) for _ in range(a)))
        for i, (q, a) in enumerate(lengths.tolist())
    ]


def rows_of(data: Path | None, count: int) -> list[Any]:
    """Return ``count`` rows of the file ``data``, or synthetic rows if ``data`` is None."""
    return real_rows(data, count) if data else synthetic_rows(count)


def real_rows(path: Path, count: int) -> list[Any]:
    """Return ``count`` rows: the rows of the file at ``path``, followed by spliced rows if the file is too short.

    The query of a spliced row is the first half of one row's query and the second half of another row's query. Its
    answer is that of the second row.
    """
    import random

    records = [json.loads(line) for line in path.read_text().splitlines()]
    draw = random.Random(0)
    rows = [as_row(i, record["query"], " " + record["answer"]) for i, record in enumerate(records[:count])]
    while len(rows) < count:
        a, b = draw.sample(records, 2)
        head, tail = a["query"].split(), b["query"].split()
        rows.append(as_row(len(rows), " ".join(head[: len(head) // 2] + tail[len(tail) // 2 :]), " " + b["answer"]))
    return rows


def as_row(index: int, query: str, answer: str) -> Any:
    """Return a row as if it came from line ``index + 1`` of a file."""
    from promptintern.rows.types import Row

    return Row(query=query, answer=answer, answers=(answer,), id=str(index + 1), where=f"rows:{index + 1}")


def small_tokenizer() -> Any:
    """Return a byte-pair tokenizer of 8,192 tokens, trained on the template and on 2,000 synthetic rows.

    The result is the same in every process.
    """
    return byte_pairs([TEMPLATE] * 20 + [row.query for row in synthetic_rows(2000)], 8192)


def byte_pairs(texts: Sequence[str], vocabulary: int) -> Any:
    """Return a byte-pair tokenizer of ``vocabulary`` tokens, trained on ``texts``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def small_model(vocabulary: int) -> Any:
    """Return a small Llama with random weights and ``vocabulary`` tokens, for compression.

    Its size does not matter, because the cost of compression does not depend on the number of rows.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=1024,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def peak_mib() -> float:
    """Return the peak resident set of this process in MiB."""
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def machine() -> dict[str, str]:
    """Return the CPU and the versions of Python and of the measured libraries, as text by name."""
    packages = ("promptintern", "bm25s", "numpy", "tokenizers", "transformers", "torch")
    info = Path("/proc/cpuinfo")
    names = [x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
    return {
        "cpu": f"{names[0] if names else platform.processor()} x {os.cpu_count()}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def report(measured: dict[int, list[dict[str, Any]]]) -> str:
    """Return a table of the measurements by number of rows, and how the cost per row grows with that number."""
    lines = [
        f"{'rows':>8} "
        + " ".join(f"{phase:>19}" for phase in PHASES)
        + f" {'all':>9} {'wall':>9}  {'peak':>7} {'loaded':>7} {'as exhaustive':>14}",
        f"{'':>8} "
        + " ".join(f"{'us/row':>19}" for _ in PHASES)
        + f" {'us/row':>9} {'us/row':>9}  {'MiB':>7} {'MiB':>7} {'%':>14}",
    ]
    totals: dict[int, float] = {}
    without_compress: dict[int, float] = {}
    for size, runs in measured.items():
        cost = {p: statistics.median(run["cpu_seconds"][p] for run in runs) / size * 1e6 for p in PHASES}
        sums = [sum(run["cpu_seconds"].values()) / size * 1e6 for run in runs]
        totals[size] = statistics.median(sums)
        without_compress[size] = statistics.median(
            sum(s for p, s in run["cpu_seconds"].items() if p != "compress") / size * 1e6 for run in runs
        )
        wall = statistics.median(run["wall_seconds"] for run in runs) / size * 1e6
        peak, loaded = max(run["peak_mib"] for run in runs), max(run["loaded_mib"] for run in runs)
        lines.append(
            f"{size:>8} "
            + " ".join(f"{cost[p]:>19.1f}" for p in PHASES)
            + f" {totals[size]:>9.1f} {wall:>9.1f}  {peak:>7.0f} {loaded:>7.0f} {100 * runs[0]['agreement']:>14.1f}"
        )
    small, large = min(measured), max(measured)
    lines += [
        f"per row, {large} rows against {small}: {totals[large] / totals[small]:.2f}x; "
        f"without compress, which all rows share: {without_compress[large] / without_compress[small]:.2f}x"
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
