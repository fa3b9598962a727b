"""Answers, the settings with which they are generated, and what ends them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Ending(StrEnum):
    """What ended an answer."""

    END_TOKEN = "end token"
    STOP = "stop string"
    LENGTH = "maximum number of tokens"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A generated answer."""

    text: str
    tokens: int
    """The number of generated tokens, including the end token if there is one."""
    ending: Ending


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """The settings for generating answers and for ending them."""

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    """The tokens that end an answer, besides those of the tokenizer and of the model."""
    batch_size: int = 32
    """The number of prompts that are answered at a time."""
    temperature: float = 0.0
    """The temperature at which tokens are drawn; 0 for greedy answers."""
    seed: tuple[int, ...] = ()
    """The numbers that seed the draws, together with the number of the prompt."""


def tell_in_batches(prompts: int, batch_size: int, progress: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function to be called with the number of prompts answered so far, whenever it grows.

    It calls ``progress`` for each ``batch_size`` more answers, and at the end, so that workers with equally many
    prompts make equally many calls.
    """
    marks = iter([*range(batch_size, prompts, batch_size), prompts])
    mark = next(marks)

    def tell(done: int) -> None:
        nonlocal mark
        while done >= mark:
            progress(mark)
            mark = next(marks, prompts + 1)

    return tell


def end_tokens(model: Any, tokenizer: Any, more: Iterable[int] = ()) -> set[int]:
    """Return the end tokens of an answer: those of the tokenizer and of the model's generation config, and ``more``."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    vocabulary = len(tokenizer)
    return {tokenizer.eos_token_id, *more, *(t for t in listed if t is not None and 0 <= t < vocabulary)}


def answer_of(tokenizer: Any, ids: Sequence[int], ends: set[int], stop: Sequence[str]) -> Answer:
    """Return the answer in the generated tokens ``ids``, up to an end token, a stop string or padding at the end."""
    length = next((i for i, token in enumerate(ids) if token in ends), None)
    if length is None and stop:  # a row that ended at a stop string may be padded to the length of its batch
        ids = _without_padding(ids, tokenizer.pad_token_id)
    text = tokenizer.decode(ids[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    cut = truncate_at_stop(text, stop)
    ending = Ending.LENGTH if length is None else Ending.END_TOKEN
    return Answer(
        text=cut,
        tokens=len(ids) if length is None else length + 1,
        ending=Ending.STOP if len(cut) < len(text) else ending,
    )


def _without_padding(ids: Sequence[int], pad: int) -> Sequence[int]:
    end = len(ids)
    while end and ids[end - 1] == pad:
        end -= 1
    return ids[:end]


def truncate_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return ``text`` up to the first ``stop`` string; the search starts at the first non-space character."""
    lead = len(text) - len(text.lstrip())
    ends = [position for stop_text in stop if (position := text.find(stop_text, lead)) >= 0]
    return text[: min(ends)] if ends else text


class StopStrings:
    """Finds out whether an answer has ended at a stop string, from its last tokens where these suffice.

    A stop string of N bytes in UTF-8 lies within the last N tokens once the last of its tokens has been generated,
    because every token that contributes to a text contributes at least one byte. A few more tokens are decoded, because
    the text of a token may depend on the tokens before it. Only if the stop string is in the text of these tokens, the
    whole text is decoded, because a stop string counts only after the first non-space character.
    """

    _MARGIN = 4

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._window = max((len(text.encode()) for text in stop), default=0) + self._MARGIN
        self._without_text = set(getattr(tokenizer, "all_special_ids", ()))

    def end(self, ids: Sequence[int]) -> bool:
        """Return whether the generated tokens ``ids`` contain a stop string. Call it after each token."""
        if not self._stop:
            return False
        tail = self._tokenizer.decode(
            self._last_with_text(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        if not any(text in tail for text in self._stop):
            return False
        whole: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return truncate_at_stop(whole, self._stop) != whole

    def _last_with_text(self, ids: Sequence[int]) -> list[int]:
        """Return the last tokens of ``ids``, without special tokens, which have no text."""
        found: list[int] = []
        for token in reversed(ids):
            if token not in self._without_text:
                found.append(token)
                if len(found) == self._window:
                    break
        return found[::-1]
