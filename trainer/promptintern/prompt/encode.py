"""Encodes prompts and answers as token ids. Prompts are tokenized alone, as in generation."""

import gc
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Any, TypeVar

from promptintern.errors import Problem, UserError, first_line
from promptintern.prompt.chat_date import OTHER_DATE, date_text, settle_date
from promptintern.prompt.teacher_targets import TeacherTargets
from promptintern.rows.problems import MAX_LISTED

T = TypeVar("T")

CHAT_FIELD = "spec.prompt.chat"
_BATCH = 1024
"""The number of texts in one call of the tokenizer. More texts would need more memory; fewer texts would be slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """The token ids of one row, as memory views of C-int arrays. Python lists would take about 9 times the memory."""

    prompt_ids: "memoryview[int]"
    answer_ids: "memoryview[int]"
    """The token ids of the answer, including the end token."""
    weight: float = 1.0
    """The weight of the cross-entropy of each answer token."""
    teacher: TeacherTargets | None = None
    """The teacher's distributions at the answer tokens; None if only the answer is learned."""


class _TemplateFault(Exception):  # noqa: N818 -- what the chat template does wrong
    """Raised if the chat template cannot write a user turn or a reply; the message says what it does wrong."""


class PromptEncoder:
    """An encoder of prompts and answers with one tokenizer.

    In plain format, the encoded prompt is the tokens that the tokenizer puts before any text (such as ``<s>``), and the
    tokens of the prompt's text. The encoded answer is the tokens of the answer's text, and the end token. In chat
    format, the base model's chat template is applied. The encoded prompt is the user turn, which holds the prompt's
    text, and the opening of the assistant turn. The encoded answer is the text that the template writes for the answer,
    up to the token that ends the turn, which need not be the tokenizer's end token. Prompt and answer are tokenized
    separately, because inference tokenizes the prompt alone.
    """

    def __init__(self, tokenizer: Any, *, chat: bool, vocabulary: int | None = None) -> None:
        """Create an encoder, after a check that ``tokenizer`` can encode rows.

        Args:
            vocabulary: The number of tokens for which the model has embeddings. Texts with other tokens are refused.
                If it is None, the model has embeddings for all tokens.

        Raises:
            UserError: if the tokenizer has no end token, or if ``chat`` is set and its chat template is unsuitable.
        """
        if tokenizer.eos_token_id is None:
            raise UserError.at(
                "spec.model.uri", "the base model's tokenizer has no end token (eos_token), so no answer could end"
            )
        self._tokenizer = tokenizer
        self._end: int = tokenizer.eos_token_id
        """The token that ends an answer."""
        self._chat = chat
        self._vocabulary = vocabulary if vocabulary is not None and vocabulary < len(tokenizer) else None
        self._prefix = array("i", [] if chat else _leading_specials(tokenizer))
        self._template: str = ""
        self._date: str | None = None
        self._takes_date = False
        if chat:
            self._check_chat()

    @property
    def written_start(self) -> str | None:
        """The text of the tokens before every prompt, if the tokenizer itself would add others, or add some at the end.

        None if the tokenizer adds these tokens and no others, and for the chat template, which writes them.
        """
        text = "x"
        bare: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if self._chat or self._tokenizer(text)["input_ids"] == [*self._prefix, *bare]:
            return None
        return str(self._tokenizer.decode(list(self._prefix)))

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer, besides the tokenizer's end token: that of the chat template's turns."""
        return () if self._end == self._tokenizer.eos_token_id else (self._end,)

    @property
    def may_think(self) -> bool:
        """Whether the chat template is that of a model that can think before it answers. No thoughts are encoded."""
        return self._chat and "<think>" in str(self._tokenizer.chat_template)

    @property
    def date(self) -> str | None:
        """The text that stands in for today's date in every prompt, or None if the chat template writes no date."""
        return self._date

    @property
    def template_options(self) -> dict[str, Any]:
        """The options that make the chat template, as it is, write the prompts of this encoder."""
        return ({"enable_thinking": False} if self.may_think else {}) | (
            {"date_string": self._date} if self._takes_date else {}
        )

    def encode(self, prompts: Iterable[str], answers: Sequence[str], *, locations: Sequence[str] = ()) -> list[Encoded]:
        """Return the encoded rows in order. Prompts are read in batches, so that not all are in memory at once.

        Args:
            locations: The file and line of each row, for error messages. If empty, messages name the number of a row,
                from 1.

        Raises:
            UserError: for every row that the chat template changes or that has tokens without an embedding, or else for
                every row whose answer has no tokens.
        """
        rows: list[Encoded] = []
        faults: dict[int, str] = {}
        with _collector_off():
            for pairs in _batches(zip(prompts, answers, strict=True)):
                texts = [prompt for prompt, _ in pairs]
                turns = self._each(lambda pair: self._answer_turn(*pair), pairs, faults, first=len(rows))
                opened = self._each(self._user_turn, texts, faults, first=len(rows))
                ids = zip(_packed(self._prompt_ids(opened)), _packed(self._answer_ids(turns)), strict=True)
                new = [Encoded(prompt_ids=prompt, answer_ids=answer) for prompt, answer in ids]
                self._note_unknown((chain(row.prompt_ids, row.answer_ids) for row in new), faults, first=len(rows))
                rows += new
        self._raise_faults(faults, locations, row="training row")
        empty = [i for i, row in enumerate(rows) if len(row.answer_ids) <= 1]
        if empty:
            raise UserError(
                [
                    Problem(
                        where=locations[i] if locations else f"training row {i + 1}",
                        message=f"its answer has no tokens under this tokenizer: {answers[i]!r:.60}",
                    )
                    for i in empty[:MAX_LISTED]
                ]
            )
        return rows

    def encode_prompts(self, prompts: Iterable[str], *, locations: Sequence[str] = ()) -> "list[array[int]]":
        """Return the token ids of each prompt, for generation.

        Args:
            locations: The file and line of each row, for error messages. If empty, messages name the number of a
                prompt, from 1.

        Raises:
            UserError: for every prompt that the chat template changes or that has tokens without an embedding.
        """
        rows: list[array[int]] = []
        faults: dict[int, str] = {}
        for batch in _batches(prompts):
            new = list(self._prompt_ids(self._each(self._user_turn, batch, faults, first=len(rows))))
            self._note_unknown(new, faults, first=len(rows))
            rows += new
        self._raise_faults(faults, locations, row="prompt")
        return rows

    def encode_openings(self, prompts: Iterable[str], mark: str) -> "list[array[int]]":
        """Return the token ids of each prompt up to the text ``mark``, for generating what stands in its place.

        Spaces before the mark are left out, because most tokenizers write a space together with the word after it.

        Raises:
            UserError: for every prompt that the chat template changes.
        """
        faults: dict[int, str] = {}
        texts = self._each(self._user_turn, list(prompts), faults, first=0)
        self._raise_faults(faults, (), row="prompt")
        openings = [text.partition(mark)[0].rstrip(" ") for text in texts]
        return [
            (self._prefix + ids) or array("i", [self._end])
            for batch in _batches(openings)
            for ids in self._tokenize(batch)
        ]

    def answer_lengths(self, answers: Iterable[str]) -> list[int]:
        """Return the number of tokens in each answer's text, without the end token and the chat template."""
        return [len(ids) for batch in _batches(answers) for ids in self._tokenize(batch, specials_as_text=True)]

    def _each(self, turn: Callable[[T], str], items: Sequence[T], faults: dict[int, str], *, first: int) -> list[str]:
        """Return the text of ``turn`` for each item, and record the fault of each item on which the template fails.

        Args:
            faults: The faults so far, by the number of the item.
            first: The number of the first item.
        """
        texts = []
        for number, item in enumerate(items, start=first):
            try:
                texts.append(turn(item))
            except _TemplateFault as fault:
                faults.setdefault(number, str(fault))
                texts.append("")
        return texts

    def _note_unknown(self, rows: Iterable[Iterable[int]], faults: dict[int, str], *, first: int) -> None:
        """Record a fault for each of ``rows`` that has a token for which the model has no embedding."""
        if self._vocabulary is None:
            return
        for number, ids in enumerate(rows, start=first):
            if (token := max(ids, default=0)) >= self._vocabulary:
                text = self._tokenizer.convert_ids_to_tokens(token)
                faults.setdefault(
                    number,
                    f"the token {text!r} is in this row with its prompt, and the base model has no embedding for it "
                    f"(it has {self._vocabulary}); the model's embeddings were not resized for the tokens that were "
                    "added to its tokenizer",
                )

    def _raise_faults(self, faults: Mapping[int, str], locations: Sequence[str], *, row: str) -> None:
        """Raise the ``faults`` of rows, by the number of the row, at the places of the rows."""
        if not faults:
            return
        remedy = f"change this row, or set {CHAT_FIELD} to false" if self._chat else "change this row"
        raise UserError(
            [
                Problem(where=locations[number] if locations else f"{row} {number + 1}", message=f"{fault}; {remedy}")
                for number, fault in list(faults.items())[:MAX_LISTED]
            ]
        )

    def _prompt_ids(self, texts: Sequence[str]) -> "Iterator[array[int]]":
        return (self._prefix + ids for ids in self._tokenize(texts))

    def _answer_ids(self, texts: Sequence[str]) -> "Iterator[array[int]]":
        # In a plain answer, "</s>" is ordinary text. In the output of a chat template, it is the end token.
        for ids in self._tokenize(texts, specials_as_text=not self._chat):
            if self._chat and self._end in ids:  # a template may write a line break after the end token
                del ids[len(ids) - 1 - ids[::-1].index(self._end) :]
            ids.append(self._end)
            yield ids

    def _tokenize(self, texts: Sequence[str], *, specials_as_text: bool = False) -> "Iterator[array[int]]":
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # the caller checks the length
            split_special_tokens=specials_as_text,
        )
        return (array("i", ids) for ids in encoded["input_ids"])

    def _user_turn(self, prompt: str) -> str:
        """Return the text of ``prompt`` and the opening of the answer. In plain format, this is the prompt itself."""
        if not self._chat:
            return prompt
        text = self._apply([{"role": "user", "content": prompt}], opens_answer=True)
        if prompt.strip() not in text:
            raise _TemplateFault(
                "the chat template does not write the user's text as it is; some templates leave out or escape a part"
            )
        return text

    def _answer_turn(self, prompt: str, answer: str) -> str:
        """Return the text that follows the user turn ``prompt`` for the reply ``answer``.

        In plain format, this is the answer itself.
        """
        if not self._chat:
            return answer
        opened = self._user_turn(prompt)
        whole = self._apply(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], opens_answer=False
        )
        if not whole.startswith(opened):
            raise _TemplateFault(
                "the chat template writes a user turn differently once an answer follows, so prompt and answer cannot "
                "be separated"
            )
        written = whole[len(opened) :]
        if answer.strip() not in written:
            raise _TemplateFault(
                "the chat template does not write the assistant's answer as it is; some templates remove or move a "
                "part, such as a thought between <think> and </think>"
            )
        if not written.lstrip().startswith(answer.strip()):
            before = written[: written.index(answer.strip())].strip()
            raise _TemplateFault(
                f"the chat template writes {before!r:.60} before the answer, which the model would learn as a part of "
                "the answer"
            )
        return written

    def _apply(
        self, messages: list[dict[str, str]], *, opens_answer: bool, template: str | None = None, **options: Any
    ) -> str:
        try:
            # With `enable_thinking=False`, templates of reasoning models put an empty thought into the prompt.
            text: str = self._tokenizer.apply_chat_template(
                messages,
                chat_template=template or self._template,
                tokenize=False,
                add_generation_prompt=opens_answer,
                enable_thinking=False,
                **options,
            )
        except Exception as error:  # noqa: BLE001 -- a template is code by the model's author and may raise anything
            raise _TemplateFault(f"the base model's chat template fails on a turn: {error}") from None
        return text

    def _check_chat(self) -> None:
        if not self._tokenizer.chat_template:
            raise UserError.at(CHAT_FIELD, "the base model's tokenizer has no chat template; set chat to false")
        try:
            template = self._tokenizer.get_chat_template()
        except ValueError as error:  # several templates, and none is the default
            raise UserError.at(CHAT_FIELD, f"{first_line(error)}; set chat to false") from None
        self._template = settle_date(template)
        try:
            self._find_end(self._answer_turn("a question", "an answer").partition("an answer")[2])
            self._find_date(template)
        except _TemplateFault as fault:
            raise UserError.at(CHAT_FIELD, f"{fault}; set chat to false") from None

    def _find_end(self, after: str) -> None:
        """Find the token that ends a turn in the text ``after`` an answer.

        Some base models end turns with an added token, such as ``<|im_end|>``, and texts with another one.
        """
        (ids,) = self._tokenize([after])
        if self._end not in ids:
            added = self._tokenizer.added_tokens_decoder
            self._end = next((token for token in ids if token in added), self._end)

    def _find_date(self, template: str) -> None:
        """Find out whether ``template`` writes today's date into user turns, and whether a request can give another."""
        turn = [{"role": "user", "content": "a question"}]
        written = self._apply(turn, opens_answer=True)
        if self._apply(turn, opens_answer=True, template=settle_date(template, OTHER_DATE)) == written:
            return
        self._date = date_text(template)
        self._takes_date = self._apply(turn, opens_answer=True, template=template, date_string=self._date) == written


@contextmanager
def _collector_off() -> Iterator[None]:
    """Disable cyclic garbage collection inside the block.

    Encoding creates no cycles, and each collection would visit all rows that have been encoded so far.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _packed(rows: "Iterable[array[int]]") -> "list[memoryview[int]]":
    """Copy ``rows`` into one buffer, and return a view of each row in the buffer.

    A separate allocation for each row, between those that the tokenizer makes and frees, would fragment the heap. With
    such allocations, encoding a row took 1.4 times as long in a set of 10^5 rows as in a set of 10^3 rows.
    """
    buffer, ends = array("i"), [0]
    for ids in rows:
        buffer.extend(ids)
        ends.append(len(buffer))
    view = memoryview(buffer)
    return [view[start:end] for start, end in pairwise(ends)]


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _leading_specials(tokenizer: Any) -> list[int]:
    """Return the ids of the tokens that ``tokenizer`` puts before every text, such as ``<s>``.

    Tokens that it puts after the text are left out.
    """
    bare: list[int] = tokenizer("x", add_special_tokens=False)["input_ids"]
    full: list[int] = tokenizer("x")["input_ids"]
    starts = [i for i in range(len(full)) if full[i : i + len(bare)] == bare]
    return full[: starts[0]] if starts else []
