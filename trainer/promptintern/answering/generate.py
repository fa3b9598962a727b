"""The answers of a model to encoded prompts: greedy, or drawn at a temperature."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from promptintern.answering.answers import Answer, Decoding, tell_in_batches
from promptintern.answering.batches import answer_in_batches
from promptintern.answering.continuous import answer_continuously, continuous_fault
from promptintern.models.load import evaluation_mode


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    numbers: Sequence[int] | None = None,
    decoding: Decoding,
    device: torch.device,
    progress: Callable[[int], None] = lambda _done: None,
    note: Callable[[str], None] = lambda _text: None,
) -> list[Answer]:
    """Return answers to ``prompts`` (token ids), in the order of the prompts.

    The prompts are answered continuously if the model allows it, else in batches of transformers. If the device has too
    little memory, fewer prompts are answered at a time.

    Args:
        numbers: The numbers of the prompts, which seed their draws; by default, they are numbered from 0. They make the
            draws independent of how the prompts are divided among workers.
        progress: A function that is called with the number of prompts answered so far, each time that
            ``decoding.batch_size`` more were answered, and at the end.
        note: A function that is called with a sentence that says why the prompts are not answered continuously.

    Raises:
        ValueError: if a prompt has no tokens.
        RunFailed: if the device has too little memory for a single prompt.
    """
    if not prompts:
        return []
    if not all(map(len, prompts)):
        raise ValueError("a prompt needs at least one token")
    answers: dict[int, Answer] = {}
    tell = tell_in_batches(len(prompts), decoding.batch_size, progress)

    def answered(number: int, answer: Answer) -> None:
        answers[number] = answer
        tell(len(answers))

    longest = max(map(len, prompts)) + decoding.max_new_tokens
    with evaluation_mode(model):
        try:
            fault = continuous_fault(model, longest=longest, device=device)
        except torch.OutOfMemoryError:
            fault = f"{device} has too little memory for a test"
        if fault:
            note(f"Answers are generated in batches, each of which waits for its longest answer, because {fault}.")
        slots = 0 if fault else decoding.batch_size
        while slots and len(answers) < len(prompts):
            missing = [number for number in range(len(prompts)) if number not in answers]
            try:
                answer_continuously(
                    model,
                    tokenizer,
                    prompts,
                    missing,
                    seeds=numbers or range(len(prompts)),
                    decoding=decoding,
                    slots=slots,
                    device=device,
                    answered=answered,
                )
            except torch.OutOfMemoryError:
                slots = min(slots, len(missing)) // 2
    missing = [number for number in range(len(prompts)) if number not in answers]
    if missing:
        rest = [prompts[number] for number in missing]
        batches = answer_in_batches(
            model,
            tokenizer,
            rest,
            numbers=[numbers[number] for number in missing] if numbers else missing,
            decoding=decoding,
            device=device,
            progress=lambda done: tell(len(answers) + done),
        )
        answers |= dict(zip(missing, batches, strict=True))
    return [answers[number] for number in range(len(prompts))]
