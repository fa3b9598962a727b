"""Prepares the input of all methods: the tokenized rows of each stage, and a model with random weights."""

import json
import random
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.preprocess import EXAMPLE, INSTRUCTIONS, byte_pairs, rows_of

VOCABULARY = 4096
SHOTS = 5
MADE_UP = "made-up rows"
"""The name that the performance page gives to synthetic rows, which do not come from a file."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a Llama with random weights, and of its LoRA on all linear layers."""

    layers: int = 4
    hidden: int = 256
    intermediate: int = 688
    heads: int = 8
    key_value_heads: int = 4
    lora_r: int = 32
    dtype: str = "float32"
    device: str = "cpu"


Row = tuple[list[int], list[int]]
"""The token ids of a prompt and of its answer, which includes the end token."""


def write_material(folder: Path, *, data: Path | None, rows: int, template_tokens: int, stages: int) -> None:
    """Render and tokenize each stage as a run does, and write ``stage-<n>.json`` files and the tokenizer."""
    from promptintern.compress import build_compressor
    from promptintern.prompt.encode import PromptEncoder
    from promptintern.prompt.render import render_prompt
    from promptintern.retrieve import build_retriever
    from promptintern.schedule import build_stages
    from promptintern_api.prompt import PromptSpec
    from promptintern_api.schedule import ScheduleSpec
    from promptintern_api.training import TrainingSpec

    found = rows_of(data, rows)
    random.Random(0).shuffle(found)  # adjacent rows of a file are similar, and no run trains on them together
    queries, answers = [row.query for row in found], [row.answer for row in found]
    # Common words of the prompts are single tokens, as they are for a real model.
    examples = [EXAMPLE.format(query=query, answer=answer) for query, answer in zip(queries, answers, strict=True)]
    tokenizer = byte_pairs([*examples, *[INSTRUCTIONS] * 20], VOCABULARY)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder / "tokenizer")
    head = fill_template(tokenizer, template_tokens)
    spec = PromptSpec(
        template=head + "\n\n{examples}Request: {query}\nCommand:",
        example_template=EXAMPLE,
        protect=["\nCommand:"],
    )
    neighbours = build_retriever(spec.retriever, found, seed=0).neighbours(queries, SHOTS)
    encoder = PromptEncoder(tokenizer, chat=False)
    with tempfile.TemporaryDirectory() as cache:
        compressor = build_compressor(
            spec, tokenizer=tokenizer, model=build_model(Shape(layers=2, hidden=64, heads=4)), cache_dir=Path(cache)
        )
        for stage in build_stages(ScheduleSpec(stages=stages, shots=SHOTS), TrainingSpec()):
            template = compressor.compress(stage.rate)
            prompts = [
                render_prompt(
                    template,
                    query=query,
                    examples=[found[i] for i in near[len(near) - stage.shots :]],
                    example_template=EXAMPLE,
                )
                for query, near in zip(queries, neighbours, strict=True)
            ]
            encoded = encoder.encode(prompts, answers)
            written = [(list(row.prompt_ids), list(row.answer_ids)) for row in encoded]
            (folder / f"stage-{stage.index}.json").write_text(json.dumps(written))


def read_stage(folder: Path, stage: int) -> list[Row]:
    """Return the rows of a stage."""
    return [(prompt, answer) for prompt, answer in json.loads((folder / f"stage-{stage}.json").read_text())]


def row_lengths(folder: Path, stage: int) -> list[int]:
    """Return the number of tokens in each row of a stage."""
    return [len(prompt) + len(answer) for prompt, answer in read_stage(folder, stage)]


def mean_row(folder: Path, stage: int) -> float:
    """Return the mean number of tokens in a row of a stage."""
    return statistics.mean(row_lengths(folder, stage))


def build_model(shape: Shape) -> Any:
    """Return a Llama of this shape on its device, with random weights that are the same in every process."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=16384,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.device(shape.device):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype))


def shape_of(text: str) -> Shape:
    """Return the shape that the JSON object ``text`` describes. Fields that are missing in it have their defaults."""
    return Shape(**json.loads(text))


def text_of(shape: Shape) -> str:
    """Return the fields of the shape as a JSON object that ``shape_of`` can read."""
    return json.dumps(asdict(shape))


def fill_template(tokenizer: Any, tokens: int) -> str:
    """Return a prompt template of ``tokens`` tokens or slightly more: instructions and as many rules as needed."""
    text, number = INSTRUCTIONS, 0
    while len(tokenizer(text)["input_ids"]) < tokens:
        number += 1
        text += f"Rule {number}: where two tools would do, take the one that was there {number} years before. "
    return text
