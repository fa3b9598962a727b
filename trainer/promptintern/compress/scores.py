"""Scores of the words of a template, computed with a causal language model or a token classifier."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from promptintern.compress.classifier import FIELD
from promptintern.compress.ranked import Unit, split_units
from promptintern.errors import UserError
from promptintern.models.load import context_length, evaluation_mode
from promptintern.prompt.template import Template

_MAX_WINDOW = 2048
"""The length of a causal model's longest window, in tokens. A longer window would need more memory for its logits and
add little context."""
_LOGIT_ROWS = 256
"""The number of positions whose float32 log-probabilities are in memory at the same time."""
_CLASSIFIER_WINDOW = 512
"""The length of a classifier's longest window, in tokens. The LLMLingua-2 models were trained with this length."""
KEEP_LABEL = 1
"""The label by which the classifier marks a token to keep."""


def self_information_scores(template: Template, model: Any, tokenizer: Any) -> list[float]:
    """Return each unit's score: the mean surprisal of its tokens in bits, -log2 p(token | preceding tokens).

    The method is from Li et al., "Compressing Context to Enhance Inference Efficiency of Large Language Models", EMNLP
    2023, with words as lexical units. Placeholders are left out. The first token is scored after the tokenizer's start
    token, or after its end token if it has no start token. A template that, with the start
    token, has more tokens than the model's context or than 2,048 is read in windows that overlap by half. Each token is
    scored in the first window that contains it. A unit without tokens scores 0.
    """
    ids, spans = _tokenize(template, tokenizer)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    window = min(context_length(model.config) or _MAX_WINDOW, _MAX_WINDOW) - 1  # one position is for the start token
    surprisal: list[float] = []
    with evaluation_mode(model):
        while len(surprisal) < len(ids):
            first = max(0, len(surprisal) - window // 2)
            inputs = torch.tensor([[start, *ids[first : first + window]]], device=_device(model))
            logits = model(input_ids=inputs, use_cache=False).logits[0, :-1]
            new = range(len(surprisal) - first, inputs.shape[1] - 1)
            surprisal += _surprisals(logits[new.start : new.stop], inputs[0, 1:][new.start : new.stop])
    return _mean_by_unit(split_units(template), spans, surprisal)


def llmlingua2_scores(template: Template, model: Any, tokenizer: Any) -> list[float]:
    """Return each unit's score: the mean probability, over its tokens, of the label "keep".

    The method is from Pan et al., "LLMLingua-2", Findings of ACL 2024. Placeholders are left out. A template longer
    than the model's window is split after the last full stop or line break that fits, as in the llmlingua package. A
    unit without tokens scores 0.

    Raises:
        UserError: if the classifier does not have exactly two labels.
    """
    if model.config.num_labels != 2:
        raise UserError.at(
            FIELD,
            f"the model has {model.config.num_labels} labels, but a token classifier with two labels (1 means keep) "
            "is needed",
        )
    ids, spans = _tokenize(template, tokenizer)
    opening, closing = tokenizer.cls_token_id, tokenizer.sep_token_id
    frame = [token for token in (opening, closing) if token is not None]
    window = min(context_length(model.config) or _CLASSIFIER_WINDOW, _CLASSIFIER_WINDOW) - len(frame)
    text = template.plain_text
    ends = [text[a:b].strip(" ") in (".", "\n") for a, b in spans]
    keep: list[float] = []
    with evaluation_mode(model):
        while len(keep) < len(ids):
            stop = _chunk_end(len(keep), window, ends)
            chunk = ids[len(keep) : stop]
            framed = [*([] if opening is None else [opening]), *chunk, *([] if closing is None else [closing])]
            inputs = torch.tensor([framed], device=_device(model))
            logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits[0].float()
            shift = 0 if opening is None else 1
            keep += logits.softmax(-1)[shift : shift + len(chunk), KEEP_LABEL].tolist()
    return _mean_by_unit(split_units(template), spans, keep)


def _tokenize(template: Template, tokenizer: Any) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the token ids of the template's plain text, and each token's range of characters."""
    encoded = tokenizer(template.plain_text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(encoded["input_ids"]), [(a, b) for a, b in encoded["offset_mapping"]]


def _surprisals(logits: torch.Tensor, targets: torch.Tensor) -> list[float]:
    """Return the surprisal in bits, -log2 p, of each of the tokens ``targets`` ``[T]`` under ``logits`` ``[T, V]``."""
    values: list[float] = []
    for rows, ids in zip(torch.split(logits, _LOGIT_ROWS), torch.split(targets, _LOGIT_ROWS), strict=True):
        log_p = rows.float().log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        values += (-log_p / math.log(2)).tolist()
    return values


def _chunk_end(start: int, window: int, ends: Sequence[bool]) -> int:
    """Return the index after the last token of the chunk that begins at token ``start``.

    A chunk has at most ``window`` tokens. It ends with the text or, if the window does not reach that far, after the
    last token in the window that ends a sentence (``ends``), or else with the window.
    """
    stop = start + window
    if stop >= len(ends):
        return len(ends)
    return next((i + 1 for i in range(stop - 1, start - 1, -1) if ends[i]), stop)


def _mean_by_unit(units: Sequence[Unit], spans: Sequence[tuple[int, int]], values: Sequence[float]) -> list[float]:
    """Return for each unit the mean of ``values`` over the tokens that begin in it.

    If no token begins in a unit, return the mean over the tokens that overlap it, or 0 if there are none.
    """
    scores, token = [], 0
    for unit in units:
        while token < len(spans) and spans[token][1] <= unit.start and spans[token][0] < unit.start:
            token += 1
        overlapping = []
        at = token
        while at < len(spans) and spans[at][0] < unit.end:
            overlapping.append(at)
            at += 1
        beginning = [i for i in overlapping if spans[i][0] >= unit.start] or overlapping
        scores.append(sum(values[i] for i in beginning) / len(beginning) if beginning else 0.0)
    return scores


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device
