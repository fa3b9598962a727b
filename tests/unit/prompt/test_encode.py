"""Encoding of prompts and answers, in plain format and with a chat template."""

import copy
from pathlib import Path
from typing import Any

import pytest
from promptintern.errors import UserError
from promptintern.prompt.encode import PromptEncoder

from tests.tiny import write_tiny_model

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% endif %}{% endfor %}<|assistant|>"
)
REWRITING = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
FAILING = "{{ raise_exception('only three turns') }}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder: Path = write_tiny_model(tmp_path_factory.mktemp("model"))
    return AutoTokenizer.from_pretrained(folder)


def text_of(tokenizer: Any, ids: Any) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def with_start_token(tokenizer: Any, *, end: str = "") -> Any:
    """Return a copy that puts <s> before a text and ``end`` after it."""
    from tokenizers.processors import TemplateProcessing

    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"<s> $A {end}".strip(),
        special_tokens=[("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)],
    )
    return changed


def test_plain_rows_end_with_the_end_token(tokenizer: Any) -> None:
    (encoded,) = PromptEncoder(tokenizer, chat=False).encode(["Q: héllo\nA:"], [" wörld"])
    assert text_of(tokenizer, encoded.prompt_ids) == "Q: héllo\nA:"
    assert text_of(tokenizer, encoded.answer_ids) == " wörld</s>"


@pytest.mark.parametrize("end", ["", "</s>"])
def test_what_the_tokenizer_puts_before_a_text_stands_before_the_prompt_only(tokenizer: Any, end: str) -> None:
    changed = with_start_token(tokenizer, end=end)
    (encoded,) = PromptEncoder(changed, chat=False).encode(["ab"], ["cd"])
    assert text_of(tokenizer, encoded.prompt_ids) == "<s>ab"
    assert text_of(tokenizer, encoded.answer_ids) == "cd</s>"


def test_prompts_alone_are_the_prompts_of_rows(tokenizer: Any) -> None:
    for chat in (False, True):
        tokenizer.chat_template = CHAT
        encoder = PromptEncoder(tokenizer, chat=chat)
        prompts = [f"prompt {i}" for i in range(5)]
        rows = encoder.encode(prompts, ["answer"] * 5)
        assert encoder.encode_prompts(prompts) == [row.prompt_ids for row in rows]


def test_chat_rows_open_the_assistant_turn_and_end_at_the_end_token(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT
    (encoded,) = PromptEncoder(with_start_token(tokenizer), chat=True).encode(["ask"], ["reply"])
    assert text_of(tokenizer, encoded.prompt_ids) == "<|user|>ask<|assistant|>"
    assert text_of(tokenizer, encoded.answer_ids) == "reply</s>"


def test_arrays_hold_what_a_list_would(tokenizer: Any) -> None:
    (encoded,) = PromptEncoder(tokenizer, chat=False).encode(["ab"], ["c"])
    assert list(encoded.prompt_ids) == tokenizer("ab")["input_ids"]
    assert all(type(token) is int for token in encoded.answer_ids)


@pytest.mark.parametrize(
    ("chat_template", "words"),
    [
        (None, "has no chat template"),
        (FORGETFUL, "does not write the assistant's answer"),
        (REWRITING, "cannot be separated"),
        (FAILING, "only three turns"),
    ],
)
def test_a_chat_template_that_cannot_serve_is_refused(tokenizer: Any, chat_template: str | None, words: str) -> None:
    tokenizer.chat_template = chat_template
    with pytest.raises(UserError, match=words) as caught:
        PromptEncoder(tokenizer, chat=True)
    assert caught.value.problems[0].where == "spec.prompt.chat"


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer: Any) -> None:
    import copy

    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(UserError, match="no end token"):
        PromptEncoder(endless, chat=False)


def test_rows_whose_answer_has_no_tokens_are_all_named(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, chat=False)
    with pytest.raises(UserError) as caught:
        encoder.encode(["a", "b", "c"], ["", "fine", ""], locations=["f:1", "f:2", "f:3"])
    assert [problem.where for problem in caught.value.problems] == ["f:1", "f:3"]


THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
    "{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)


def test_an_empty_thought_belongs_to_the_prompt(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKING
    (encoded,) = PromptEncoder(tokenizer, chat=True).encode(["Q"], ["A"])
    assert text_of(tokenizer, encoded.prompt_ids) == "<|user|>Q<|assistant|><think></think>"
    assert text_of(tokenizer, encoded.answer_ids) == "A</s>"


def test_text_that_a_template_writes_before_every_answer_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKING.replace("enable_thinking is defined", "false")
    with pytest.raises(UserError, match="writes '<think></think>' before the answer"):
        PromptEncoder(tokenizer, chat=True)


MOVING = (
    "{% for m in messages %}{% if m.role == 'assistant' and '</think>' in m.content %}"
    "{{ m.content.split('</think>')[-1] }}</s>{% elif m.role == 'assistant' %}{{ m.content }}</s>{% else %}"
    "<|user|>{{ m.content }}<|assistant|>{% endif %}{% endfor %}"
)
PICKY = (
    "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('no bad words') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_each_row_that_a_template_changes_is_named(tokenizer: Any) -> None:
    tokenizer.chat_template = MOVING
    encoder = PromptEncoder(tokenizer, chat=True)
    answers = ["<think>a</think>b", "fine", "<think>c</think>d"]
    with pytest.raises(UserError) as caught:
        encoder.encode(["x", "y", "z"], answers, locations=["f:1", "f:2", "f:3"])
    assert [problem.where for problem in caught.value.problems] == ["f:1", "f:3"]
    assert "does not write the assistant's answer as it is" in caught.value.problems[0].message
    assert "change this row, or set spec.prompt.chat to false" in caught.value.problems[0].message


def test_each_row_on_which_a_template_fails_is_named(tokenizer: Any) -> None:
    tokenizer.chat_template = PICKY
    encoder = PromptEncoder(tokenizer, chat=True)
    many = ["fine"] * 1500 + ["bad"]  # in the second batch
    with pytest.raises(UserError) as caught:
        encoder.encode(many, ["answer"] * 1501)
    assert [problem.where for problem in caught.value.problems] == ["training row 1501"]
    with pytest.raises(UserError) as caught:
        encoder.encode(["fine"], ["bad"], locations=["f:7"])
    assert [problem.where for problem in caught.value.problems] == ["f:7"]
    with pytest.raises(UserError) as caught:
        encoder.encode_prompts(many, locations=[f"f:{number}" for number in range(1501)])
    assert [problem.where for problem in caught.value.problems] == ["f:1500"]
    assert "no bad words" in caught.value.problems[0].message


DATED = CHAT.replace("<|{{ m.role }}|>", "<|{{ m.role }}|>{{ strftime_now('%d %b %Y') if m.role == 'user' }}")


def test_a_template_that_writes_the_date_writes_the_same_one_every_day(tokenizer: Any) -> None:
    tokenizer.chat_template = DATED
    assert "01 Jan 2025" not in tokenizer.apply_chat_template([{"role": "user", "content": "ask"}], tokenize=False)
    encoder = PromptEncoder(tokenizer, chat=True)
    (ids,) = encoder.encode_prompts(["ask"])
    assert text_of(tokenizer, ids) == "<|user|>01 Jan 2025ask<|assistant|>"
    assert encoder.date == "01 Jan 2025"


@pytest.mark.parametrize(
    ("template", "options"),
    [
        (CHAT, {}),
        (DATED, {}),
        (THINKING, {"enable_thinking": False}),
        (DATED.replace("strftime_now(", "date_string or strftime_now("), {"date_string": "01 Jan 2025"}),
    ],
)
def test_the_options_that_a_server_needs_to_write_the_same_prompts(
    tokenizer: Any, template: str, options: dict[str, Any]
) -> None:
    tokenizer.chat_template = template
    assert PromptEncoder(tokenizer, chat=True).template_options == options


def test_a_template_without_a_date_has_none(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% if tools %}{{ strftime_now('%d') }}{% endif %}" + CHAT
    assert PromptEncoder(tokenizer, chat=True).date is None
    tokenizer.chat_template = CHAT
    assert PromptEncoder(tokenizer, chat=True).date is None
    assert PromptEncoder(tokenizer, chat=False).date is None


def test_an_end_token_spelt_out_in_an_answer_is_text(tokenizer: Any) -> None:
    (encoded,) = PromptEncoder(tokenizer, chat=False).encode(["Q"], ["a</s>b"])
    assert list(encoded.answer_ids).count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(list(encoded.answer_ids), skip_special_tokens=True) == "a</s>b"


def with_added_token(tokenizer: Any, text: str, *, special: bool) -> Any:
    """Return a copy with an added token."""
    from tokenizers import AddedToken

    changed = copy.deepcopy(tokenizer)
    changed.add_tokens([AddedToken(text, special=special, normalized=False)], special_tokens=special)
    return changed


TURNS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("always_opens", [False, True])
def test_an_answer_ends_with_the_token_that_ends_turns(tokenizer: Any, special: bool, always_opens: bool) -> None:
    """Base models often have a chat template whose turns end with another token than their texts."""
    changed = with_added_token(tokenizer, "<|im_end|>", special=special)
    changed.chat_template = TURNS.replace("add_generation_prompt", "true") if always_opens else TURNS
    encoder = PromptEncoder(changed, chat=True)
    (encoded,) = encoder.encode(["Q"], ["A"])
    assert text_of(changed, encoded.answer_ids) == "A<|im_end|>"
    assert encoder.ends == (changed.convert_tokens_to_ids("<|im_end|>"),)


def test_a_template_that_ends_turns_with_the_end_token_has_no_other(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT
    assert PromptEncoder(tokenizer, chat=True).ends == PromptEncoder(tokenizer, chat=False).ends == ()


@pytest.mark.parametrize("written", ["''", "m.content[:20]", "m.content.replace('secret', '')"])
def test_a_template_that_drops_a_part_of_the_prompt_is_a_fault(tokenizer: Any, written: str) -> None:
    template = "{{ WRITTEN if m.role == 'user' else m.content }}".replace("WRITTEN", written)
    tokenizer.chat_template = CHAT.replace("{{ m.content }}", template)
    with pytest.raises(UserError, match="does not write the user's text as it is"):
        PromptEncoder(tokenizer, chat=True).encode_prompts(["a long question with a secret"])


@pytest.mark.parametrize("chat", [False, True])
def test_a_token_without_an_embedding_is_named_at_its_row(tokenizer: Any, chat: bool) -> None:
    changed = with_added_token(tokenizer, "<new>", special=False)
    changed.chat_template = CHAT
    encoder = PromptEncoder(changed, chat=chat, vocabulary=len(tokenizer))
    with pytest.raises(UserError, match="'<new>' is in this row") as caught:
        encoder.encode(["fine", "a <new> one", "fine"], ["a", "b", "an <new> answer"], locations=["f:1", "f:2", "f:3"])
    assert [problem.where for problem in caught.value.problems] == ["f:2", "f:3"]
    with pytest.raises(UserError, match="'<new>' is in this row") as caught:
        encoder.encode_prompts(["fine", "a <new> one"])
    assert [problem.where for problem in caught.value.problems] == ["prompt 2"]
    PromptEncoder(changed, chat=chat).encode_prompts(["a <new> one"])
