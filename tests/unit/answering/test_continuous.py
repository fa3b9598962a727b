"""Continuous batching gives the answers that transformers gives to each prompt alone, in whatever company."""

import random
import re
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern.answering import continuous, passes
from promptintern.answering import generate as module
from promptintern.answering.answers import Answer, Decoding, Ending, StopStrings, truncate_at_stop
from promptintern.answering.batches import answer_in_batches
from promptintern.answering.continuous import continuous_fault
from promptintern.answering.generate import generate
from promptintern.answering.slots import RecordedKeys, Slots
from promptintern.engine.attention.prefix_tree import Prefixes
from promptintern.errors import RunFailed
from promptintern.models.load import evaluation_mode

from tests.tiny import ARCHITECTURES, COMMON, random_model, tiny_config, tiny_model, write_tiny_model

CPU = torch.device("cpu")
NEW_TOKENS = 12


def prompts_with_examples(count: int, *, template: int = 24, seed: int = 0) -> list[list[int]]:
    """Return prompts of a template, of one or two of three examples, and of a query of their own."""
    draw = random.Random(seed)
    ids = [draw.randrange(5, 90) for _ in range(template)]
    examples = [[draw.randrange(5, 90) for _ in range(20 + n)] for n in range(3)]
    return [
        [
            *ids,
            *(token for example in draw.sample(examples, draw.randint(1, 2)) for token in example),
            *(draw.randrange(5, 90) for _ in range(draw.randint(1, 9))),
        ]
        for _ in range(count)
    ]


PROMPTS = prompts_with_examples(11)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_tiny_model(tmp_path_factory.mktemp("model")))


def ending_model(architecture: str = "llama") -> Any:
    """Return a model whose answers end after a few tokens, each at another length."""
    model = tiny_model(architecture).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight[2] *= 2
    return model


def alone(model: Any, tokenizer: Any, prompts: list[list[int]], decoding: Decoding) -> list[Answer]:
    """Return the answer of transformers to each prompt alone."""
    return [answer_in_batches(model, tokenizer, [p], decoding=decoding, device=CPU)[0] for p in prompts]


def with_adapter(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_are_those_of_transformers(architecture: str, batch_size: int, tokenizer: Any) -> None:
    model, decoding = ending_model(architecture), Decoding(max_new_tokens=NEW_TOKENS, batch_size=batch_size)
    expected = alone(model, tokenizer, PROMPTS, decoding)
    assert len({answer.tokens for answer in expected}) > 2
    assert {answer.ending for answer in expected} >= {Ending.END_TOKEN}
    assert generate(model, tokenizer, PROMPTS, decoding=decoding, device=CPU) == expected
    has_window = architecture == "mistral"
    assert bool(continuous_fault(model, longest=90, device=CPU)) == has_window


def test_an_adapter_counts_only_while_it_is_on(tokenizer: Any) -> None:
    model, decoding = with_adapter(ending_model()), Decoding(max_new_tokens=NEW_TOKENS, batch_size=4)
    adapted = alone(model, tokenizer, PROMPTS, decoding)
    assert generate(model, tokenizer, PROMPTS, decoding=decoding, device=CPU) == adapted
    with model.disable_adapter():
        base = alone(model, tokenizer, PROMPTS, decoding)
        assert generate(model, tokenizer, PROMPTS, decoding=decoding, device=CPU) == base
    assert base != adapted


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(5, 8), min_size=1, max_size=25), min_size=1, max_size=7),
    beginning=st.integers(0, 20),
    batch_size=st.integers(1, 8),
    new_tokens=st.integers(1, 8),
)
def test_any_prompts_in_any_company(
    prompts: list[list[int]], beginning: int, batch_size: int, new_tokens: int, tokenizer: Any
) -> None:
    model, decoding = ending_model(), Decoding(max_new_tokens=new_tokens, batch_size=batch_size)
    prompts = [[*range(20, 20 + beginning), *prompt] for prompt in prompts]
    with evaluation_mode(model):
        assert continuous_fault(model, longest=60, device=CPU) == ""
    assert generate(model, tokenizer, prompts, decoding=decoding, device=CPU) == alone(
        model, tokenizer, prompts, decoding
    )


def test_each_token_of_a_prompt_is_computed_once_and_no_answer_waits(tokenizer: Any) -> None:
    model, computed = ending_model(), []
    with evaluation_mode(model):
        assert continuous_fault(model, longest=90, device=CPU) == ""
    model.model.layers[0].register_forward_pre_hook(lambda _module, inputs: computed.append(inputs[0].shape[1]))
    decoding = Decoding(max_new_tokens=NEW_TOKENS, batch_size=4)
    answers = generate(model, tokenizer, PROMPTS, decoding=decoding, device=CPU)
    decoded = sum(answer.tokens - 1 for answer in answers)  # the last token of an answer is not computed
    steps = [tokens for tokens in computed if tokens <= 4]
    assert sum(steps) in range(decoded, decoded + 5)  # rows of the last tokens of few prompts are as short
    ordered = [PROMPTS[number] for number in Prefixes(PROMPTS).sort(range(len(PROMPTS)))]
    different = {tuple(prompt[:end]) for prompt in ordered for end in range(1, len(prompt) + 1)}
    repeated = sum(computed) - sum(steps) - len(different)
    assert 0 <= repeated < 0.4 * sum(map(len, PROMPTS)) - 0.3 * len(different)


def test_draws_depend_on_the_seed_and_on_no_other_prompt(tokenizer: Any) -> None:
    model = tiny_model("llama").eval()

    def drawn(prompts: list[list[int]], *seed: int, batch_size: int = 4, temperature: float = 1.0) -> list[str]:
        decoding = Decoding(max_new_tokens=6, batch_size=batch_size, temperature=temperature, seed=seed)
        return [answer.text for answer in generate(model, tokenizer, prompts, decoding=decoding, device=CPU)]

    first = drawn(PROMPTS, 1)
    assert drawn(PROMPTS, 1, batch_size=32) == first
    assert drawn(PROMPTS[:5], 1) == first[:5]
    decoding = Decoding(max_new_tokens=6, temperature=1.0, seed=(1,))
    shared = generate(model, tokenizer, PROMPTS[1::2], numbers=range(1, 11, 2), decoding=decoding, device=CPU)
    assert [answer.text for answer in shared] == first[1::2], "a worker's share has the draws of the whole"
    assert drawn(PROMPTS, 2) != first
    assert (
        drawn(PROMPTS, 1, temperature=0.0) == drawn(PROMPTS, 2, temperature=0.0) == drawn(PROMPTS, 1, temperature=1e-4)
    )


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]])
    rows = [continuous._row(n, 1, Decoding(max_new_tokens=1, temperature=2.0, seed=(3,)), n) for n in range(4000)]
    counts = torch.bincount(torch.tensor(continuous._choose(logits.expand(4000, -1), rows, 2.0)), minlength=4)
    expected = (logits[0] / 2).softmax(-1)
    assert counts[2] == 0
    assert (counts / 4000 - expected).abs().max() < 0.03  # four standard deviations


def test_progress_is_told_at_the_same_counts_in_every_order(tokenizer: Any) -> None:
    told: list[int] = []
    decoding = Decoding(max_new_tokens=NEW_TOKENS, batch_size=4)
    generate(ending_model(), tokenizer, PROMPTS, decoding=decoding, device=CPU, progress=told.append)
    assert told == [4, 8, 11]


class InterruptedByCaller(Exception):  # noqa: N818 -- not an error
    """An error of the caller."""


def test_an_interrupted_model_is_as_before(tokenizer: Any) -> None:
    model, decoding = ending_model(), Decoding(max_new_tokens=NEW_TOKENS, batch_size=2)
    before = model.config._attn_implementation

    def stop(_done: int) -> None:
        raise InterruptedByCaller

    with pytest.raises(InterruptedByCaller):
        generate(model, tokenizer, PROMPTS, decoding=decoding, device=CPU, progress=stop)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("fits", [2, 1, 0])
def test_a_small_device_answers_fewer_at_a_time(fits: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, decoding = ending_model(), Decoding(max_new_tokens=NEW_TOKENS, batch_size=8)
    expected, told = alone(model, tokenizer, PROMPTS, decoding), []
    original, computed = continuous.prefill, []

    def small_device(*arguments: Any, first: int, **options: Any) -> Any:
        if first + len(arguments[1]) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        computed.append(len(arguments[1]))
        return original(*arguments, first=first, **options)

    with evaluation_mode(model):
        assert continuous_fault(model, longest=90, device=CPU) == ""
    monkeypatch.setattr(continuous, "prefill", small_device)
    assert generate(model, tokenizer, PROMPTS, decoding=decoding, device=CPU, progress=told.append) == expected
    assert told == [8, 11]
    assert bool(computed) == (fits > 0)


def test_a_prompt_too_large_for_the_device_is_named(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama").eval()

    def no_memory(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with evaluation_mode(model):
        assert continuous_fault(model, longest=90, device=CPU) == ""
    monkeypatch.setattr(model.model, "forward", no_memory)
    with pytest.raises(RunFailed, match=f"too little memory to answer a prompt of {min(map(len, PROMPTS))} tokens"):
        generate(model, tokenizer, PROMPTS, decoding=Decoding(max_new_tokens=2), device=CPU)


def models_with_a_fault() -> dict[str, tuple[Any, str]]:
    """Return models that cannot answer continuously, each with a part of the reason."""
    llama = tiny_config("llama")
    llama.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    llama.max_position_embeddings = 32
    return {
        "a window": (tiny_config("mistral"), "does not attend to all of 90 tokens"),
        "scaled positions": (llama, "does not attend to all of 90 tokens"),
        "no attention": (tiny_config("mamba"), "has layers without softmax attention"),
        "attention to later tokens": (transformers.BertConfig(**COMMON), "does not accept tree|other logits"),
    }


@pytest.mark.parametrize("name", models_with_a_fault())
def test_models_that_cannot_are_answered_in_batches(name: str, tokenizer: Any) -> None:
    config, reason = models_with_a_fault()[name]
    model = random_model(config).eval()
    with evaluation_mode(model):
        assert re.search(reason, continuous_fault(model, longest=90, device=CPU))
    decoding = Decoding(max_new_tokens=4, batch_size=3)
    equal = random_model(config).eval()  # a model with scaled positions keeps the largest length that it has met
    in_batches = answer_in_batches(equal, tokenizer, PROMPTS, decoding=decoding, device=CPU)
    assert generate(model, tokenizer, PROMPTS, decoding=decoding, device=CPU) == in_batches


def test_draws_in_batches_depend_on_the_number_of_the_prompt(tokenizer: Any) -> None:
    """Two workers with equal prompts must not draw the same texts."""
    model, same = tiny_model("mistral").eval(), [PROMPTS[0]] * 3
    decoding = Decoding(max_new_tokens=6, temperature=1.0, seed=(1,), batch_size=1)

    def drawn(numbers: list[int]) -> list[str]:
        answers = generate(model, tokenizer, same, numbers=numbers, decoding=decoding, device=CPU)
        return [answer.text for answer in answers]

    first, second = drawn([0, 2, 4]), drawn([1, 3, 5])
    assert len({*first, *second}) == 6
    assert drawn([0, 2, 4]) == first


def test_the_reason_for_batches_is_told(tokenizer: Any) -> None:
    notes: list[str] = []
    decoding = Decoding(max_new_tokens=2)
    generate(tiny_model("mistral"), tokenizer, PROMPTS, decoding=decoding, device=CPU, note=notes.append)
    assert len(notes) == 1
    assert "in batches" in notes[0] and "does not attend to all of" in notes[0]
    generate(tiny_model("llama"), tokenizer, PROMPTS, decoding=decoding, device=CPU, note=notes.append)
    assert len(notes) == 1


def test_an_empty_prompt_is_named(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        generate(tiny_model("llama"), tokenizer, [[5], []], decoding=Decoding(max_new_tokens=2), device=CPU)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("none left"), RuntimeError("CUDA error: unknown")])
def test_a_test_that_fails_for_once_is_made_again(
    error: Exception, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, notes = tiny_model("llama").eval(), list[str]()

    def fail(*_: object) -> str:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(continuous, "_logit_fault", fail)
        generate(model, tokenizer, PROMPTS, decoding=Decoding(max_new_tokens=2), device=CPU, note=notes.append)
    assert len(notes) == 1
    generate(model, tokenizer, PROMPTS, decoding=Decoding(max_new_tokens=2), device=CPU, note=notes.append)
    assert len(notes) == 1


def test_what_an_ended_row_leaves_in_its_slot_changes_nothing() -> None:
    slots, computed = Slots(2, 8), RecordedKeys(3)
    module = torch.nn.Linear(1, 1)
    computed.record(module, (torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2)))
    slots.fill(0, computed, torch.tensor([[0, 1, 2]]))
    layer = slots.of_layer(module)
    layer.values[:, :, 5:] = float("nan")
    layer.keys[:, :, 5:] = float("inf")
    slots.fill(0, computed, torch.tensor([[0, 1]]))
    assert layer.keys[0].sum() == layer.values[0].sum() == 4


def deep_model(dtype: torch.dtype) -> Any:
    """Return a model with as many layers, and as much rounding in 16-bit types, as a small pretrained model has."""
    config = tiny_config("llama")
    config.num_hidden_layers, config.initializer_range = 30, 0.1
    return random_model(config).eval().to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_fault(dtype: torch.dtype) -> None:
    model = deep_model(dtype)
    with evaluation_mode(model):
        assert continuous_fault(model, longest=90, device=CPU) == ""


@pytest.mark.parametrize(
    ("dtype", "factor"), [(torch.float32, 1.01), (torch.bfloat16, 1.5), (torch.bfloat16, 0.5), (torch.float16, 1.5)]
)
def test_a_wrong_sum_is_found(dtype: torch.dtype, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    original = passes.DecodingAttention.attend

    def wrong(self: Any, module: Any, *tensors: Any, **options: Any) -> Any:
        return original(self, module, *tensors, **options) * factor

    monkeypatch.setattr(passes.DecodingAttention, "attend", wrong)
    model = deep_model(dtype)
    with evaluation_mode(model):
        assert "other logits" in continuous_fault(model, longest=90, device=CPU)


def test_no_prompts_have_no_answers(tokenizer: Any) -> None:
    assert generate(tiny_model("llama"), tokenizer, [], decoding=Decoding(max_new_tokens=2), device=CPU) == []
    assert module.generate is generate


class Letters:
    """A tokenizer whose tokens are short texts."""

    parts = ("a", "b", "ab", " ", "\n", "é", "```", "")
    all_special_ids = (7,)

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(self.parts[i] for i in ids)


@given(st.lists(st.integers(0, 7), max_size=30), st.lists(st.text("ab \né`", min_size=1, max_size=5), max_size=3))
def test_stop_strings_end_an_answer_at_the_same_token_as_its_whole_text_does(ids: list[int], stop: list[str]) -> None:
    letters = Letters()
    criterion = StopStrings(letters, stop)
    for length in range(1, len(ids) + 1):
        text = letters.decode(ids[:length])
        ended = truncate_at_stop(text, stop) != text
        assert criterion.end(ids[:length]) == ended
        if ended:
            break
