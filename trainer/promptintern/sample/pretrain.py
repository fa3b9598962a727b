"""Pretrains the sample model level by level: ``python -m promptintern.sample.pretrain --out DIR``."""

import argparse
import json
import random
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch.nn import functional
from transformers import LlamaForCausalLM

from promptintern.errors import RunFailed
from promptintern.sample.architecture import make_model
from promptintern.sample.curriculum import LEVELS, Level, make_document
from promptintern.sample.reading import exact_match, make_probes, make_query_only_probes
from promptintern.sample.tokenizer import train_tokenizer

SEED = 0
LEARNING_RATE = 2e-3
WARMUP_STEPS = 30
REVIEW_SHARE = 0.2
"""The share of a level's steps that train on an earlier level instead."""
WINDOW = 8
"""The number of steps over which a level's accuracy is averaged. Every batch is about new worlds, so the accuracy is
measured on worlds that the model has not seen."""
MAX_STEPS_PER_LEVEL = 1500
FINISH_STEPS = 150
"""The number of further steps on the last level after it is passed. In these steps, the learning rate falls to zero."""
GATE_WORLDS, GATE_QUESTIONS = 20, 20
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class LevelResult:
    """The result of training on a level."""

    level: str
    steps: int
    accuracy: float
    """The share of answer tokens that were right in the last ``WINDOW`` steps."""


def make_batch(tokenizer: Any, level: Level, seeds: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return right-padded token ids and labels, each ``[documents, tokens]``. A label is the next token.

    The label of an answer's last token is the end token, although the document continues with a line break. A document
    with many answers thus teaches the model where each answer ends. All labels outside answers are ``IGNORED``.
    """
    documents = [make_document(level, seed) for seed in seeds]
    texts = [span.text for document in documents for span in document]
    encoded = iter(tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"])
    rows: list[list[int]] = []
    targets: list[list[int]] = []
    for document in documents:
        ids: list[int] = []
        labels: list[int] = []
        for span in document:
            tokens = next(encoded)
            ids += tokens
            if span.is_answer:
                labels[-1] = tokens[0]
                labels += [*tokens[1:], tokenizer.eos_token_id]
            else:
                labels += [IGNORED] * len(tokens)
        rows.append(ids)
        targets.append(labels)
    width = max(map(len, rows))
    return (
        torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows]),
        torch.tensor([row + [IGNORED] * (width - len(row)) for row in targets]),
    )


def loss_and_accuracy(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the mean cross entropy over labelled positions, and the share of these positions with a right prediction.

    No attention mask is needed, because padding is on the right and attention is causal.
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    chosen = labels != IGNORED
    logits = model.lm_head(hidden[chosen])
    targets = labels[chosen]
    return functional.cross_entropy(logits, targets), (logits.argmax(-1) == targets).float().mean().item()


class Pretraining:
    """The pretraining of a model. The documents of a step depend only on the seed, the step and the level."""

    def __init__(self, tokenizer: Any, *, seed: int) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.step = 0
        self.model = make_model(tokenizer, seed=seed)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
        )

    def pass_level(self, index: int) -> LevelResult:
        """Train on ``LEVELS[index]``, with some steps on earlier levels, until its minimum accuracy is reached.

        Raises:
            RunFailed: if the minimum accuracy is not reached within ``MAX_STEPS_PER_LEVEL`` steps.
        """
        level, first = LEVELS[index], self.step
        window: deque[float] = deque(maxlen=WINDOW)
        while len(window) < WINDOW or sum(window) / WINDOW < level.min_accuracy:
            if self.step - first >= MAX_STEPS_PER_LEVEL:
                raise RunFailed(
                    f"level {level.name!r} did not reach its minimum accuracy in {MAX_STEPS_PER_LEVEL} steps"
                )
            rng = random.Random(f"review/{self.seed}/{self.step}")
            if index > 0 and rng.random() < REVIEW_SHARE:
                self._train(rng.choice(LEVELS[:index]))
            else:
                window.append(self._train(level))
        return LevelResult(level=level.name, steps=self.step - first, accuracy=round(sum(window) / WINDOW, 4))

    def finish(self) -> None:
        """Train on the last level while the learning rate falls to zero."""
        for number in range(FINISH_STEPS):
            self._train(LEVELS[-1], share=1 - number / FINISH_STEPS)

    def _train(self, level: Level, *, share: float = 1.0) -> float:
        warmup = min(1.0, (self.step + 1) / WARMUP_STEPS)
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warmup * share
        seeds = [f"pretrain/{self.seed}/{self.step}/{number}" for number in range(level.batch)]
        loss, accuracy = loss_and_accuracy(self.model, *make_batch(self.tokenizer, level, seeds))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if self.step % 10 == 0:
            print(f"step {self.step} {level.name}: loss {loss.item():.3f} accuracy {accuracy:.3f}", flush=True)
        self.step += 1
        return accuracy


def measure_scores(model: LlamaForCausalLM, tokenizer: Any) -> dict[str, float]:
    """Return the exact match on new worlds for the full prompt, with and without examples, and for the query alone."""
    names = [f"gate/{number}" for number in range(GATE_WORLDS)]
    kinds = {
        "fullPrompt3Shots": [p for n in names for p in make_probes(n, questions=GATE_QUESTIONS, shots=3)],
        "fullPrompt0Shots": [p for n in names for p in make_probes(n, questions=GATE_QUESTIONS, shots=0)],
        "queryOnly": [p for n in names for p in make_query_only_probes(n, questions=GATE_QUESTIONS)],
    }
    return {kind: round(exact_match(model, tokenizer, probes), 4) for kind, probes in kinds.items()}


def check_scores(scores: dict[str, float]) -> None:
    """Check from its scores that the pretrained model is good enough to ship.

    Raises:
        RunFailed: if the model does not read its prompt, or can answer without reading it.
    """
    if min(scores["fullPrompt3Shots"], scores["fullPrompt0Shots"]) < 0.8 or scores["queryOnly"] >= 0.2:
        raise RunFailed(
            f"the weights must score at least 0.8 with the prompt and under 0.2 without it, but score {scores}"
        )


def main() -> None:
    """Pretrain and evaluate the model, and write weights, tokenizer and ``pretraining.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, configuration and tokenizer")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = train_tokenizer()
    pretraining = Pretraining(tokenizer, seed=SEED)
    try:
        results = [pretraining.pass_level(index) for index in range(len(LEVELS))]
        pretraining.finish()
        scores = measure_scores(pretraining.model, tokenizer)
        check_scores(scores)
    except RunFailed as error:
        sys.exit(str(error))
    pretraining.model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    record = {
        "seed": SEED,
        "parameters": sum(parameter.numel() for parameter in pretraining.model.parameters()),
        "steps": pretraining.step,
        "levels": [asdict(level) for level in results],
        "exactMatch": scores,
        "exactMatchRows": GATE_WORLDS * GATE_QUESTIONS,
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)},
    }
    (arguments.out / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
