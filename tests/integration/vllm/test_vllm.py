"""Answers from vLLM's process are those of the trainer, whatever ends them; faults of the process are told."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from promptintern.answering.answers import Answer, Decoding, Ending
from promptintern.answering.generate import generate
from promptintern.answering.vllm.engine import VllmEngine
from promptintern.answering.vllm.environment import VllmProgram
from promptintern.engine.adapter import Adapter, attach_lora
from promptintern.errors import RunFailed
from promptintern_api.training import Lora
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny import write_tiny_model

CPU = torch.device("cpu")
PROMPTS = [[(7 * n + k) % 60 + 20 for n in range(3 + 2 * k)] for k in range(7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes many spaces."""
    folder = write_tiny_model(tmp_path_factory.mktemp("model"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    (space,) = AutoTokenizer.from_pretrained(folder)(" ", add_special_tokens=False).input_ids
    with torch.no_grad():
        model.get_output_embeddings().weight[space] *= 8
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def adapter(folder: Path) -> Adapter:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapter = attach_lora(model, Lora(r=4, alpha=8), seed=1)
    adapter.flat.data.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.3)
    return adapter


@pytest.fixture(scope="module")
def engine(engines: Callable[..., VllmEngine]) -> VllmEngine:
    """The engine of the tests in which no process ends."""
    return engines()


@pytest.fixture(scope="module")
def engines(folder: Path, vllm_python: Path) -> Iterator[Callable[..., VllmEngine]]:
    """Return a function that makes engines, whose process has the stand-in for vLLM."""
    made: list[VllmEngine] = []

    def make(*, python: Path = vllm_python, model: Path = folder) -> VllmEngine:
        program = VllmProgram(python=python, version="0.0")
        made.append(VllmEngine(program, model=model, dtype="float32", rank=4, max_tokens=None, device=CPU))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def ask(
    engine: VllmEngine,
    adapter: Adapter,
    tokenizer: Any,
    decoding: Decoding,
    *,
    use_adapter: bool = True,
    prompts: list[list[int]] = PROMPTS,
    progress: Callable[[int], None] = lambda _done: None,
) -> list[Answer]:
    return engine.answer(
        adapter,
        tokenizer,
        prompts,
        numbers=range(len(prompts)),
        use_adapter=use_adapter,
        decoding=decoding,
        progress=progress,
    )


def test_answers_are_those_of_the_trainer_for_each_adapter(
    adapter: Adapter, tokenizer: Any, engine: VllmEngine
) -> None:
    decoding = Decoding(max_new_tokens=9, batch_size=3)
    found = []
    for scale in (1.0, -2.0):
        adapter.flat.data.mul_(scale)
        told: list[int] = []
        expected = generate(adapter.model, tokenizer, PROMPTS, decoding=decoding, device=CPU)
        found.append(ask(engine, adapter, tokenizer, decoding, progress=told.append))
        assert found[-1] == expected
        assert told == [3, 6, 7]
    with adapter.model.disable_adapter():
        base = generate(adapter.model, tokenizer, PROMPTS, decoding=decoding, device=CPU)
    assert ask(engine, adapter, tokenizer, decoding, use_adapter=False) == base
    assert found[0] != found[1] != base


def test_answers_end_where_those_of_the_trainer_end(adapter: Adapter, tokenizer: Any, engine: VllmEngine) -> None:
    """Many answers begin with white space. vLLM stops there at once if a stop string has it, and has to go on."""
    whole = Decoding(max_new_tokens=9)
    answers = generate(adapter.model, tokenizer, PROMPTS, decoding=whole, device=CPU)
    assert any(answer.text[:1].isspace() for answer in answers)
    characters = sorted({character for answer in answers for character in answer.text})
    tokens = sorted({token for text in characters for token in tokenizer(text, add_special_tokens=False).input_ids})
    endings = set()
    for stop in ((), *((character,) for character in characters), (" ", "\n")):
        for ends in ((), tokens[::3]):
            decoding = Decoding(max_new_tokens=9, stop=stop, ends=tuple(ends), batch_size=4)
            expected = generate(adapter.model, tokenizer, PROMPTS, decoding=decoding, device=CPU)
            assert ask(engine, adapter, tokenizer, decoding) == expected
            endings |= {answer.ending for answer in expected}
    assert endings == set(Ending)


def test_a_longer_prompt_gets_an_engine_with_more_room(adapter: Adapter, tokenizer: Any, engine: VllmEngine) -> None:
    decoding = Decoding(max_new_tokens=4)
    ask(engine, adapter, tokenizer, decoding)
    long = [[30 + n % 50 for n in range(300)]]
    expected = generate(adapter.model, tokenizer, long, decoding=decoding, device=CPU)
    assert ask(engine, adapter, tokenizer, decoding, prompts=long) == expected


def test_a_stop_ends_the_process_and_the_next_call_starts_another(
    adapter: Adapter, tokenizer: Any, engine: VllmEngine
) -> None:
    decoding = Decoding(max_new_tokens=4, batch_size=1)

    def stop(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(engine, adapter, tokenizer, decoding, progress=stop)
    assert len(ask(engine, adapter, tokenizer, decoding)) == len(PROMPTS)


def test_many_rows_at_a_time_are_as_many_as_vllm_accepts(
    adapter: Adapter, tokenizer: Any, engines: Callable[..., VllmEngine]
) -> None:
    decoding = Decoding(max_new_tokens=4, batch_size=100_000)
    assert len(ask(engines(), adapter, tokenizer, decoding)) == len(PROMPTS)


def test_only_the_newest_adapter_is_kept(
    adapter: Adapter, tokenizer: Any, engines: Callable[..., VllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that has not changed is not written again."""
    engine, decoding = engines(), Decoding(max_new_tokens=2)
    saved: list[Path] = []
    save = Adapter.save
    monkeypatch.setattr(Adapter, "save", lambda self, to, **names: (saved.append(to), save(self, to, **names)))
    for scale, use_adapter in ((1, True), (1, False), (1, True), (2, True), (1, True), (0.5, True)):
        adapter.flat.data.mul_(scale)
        ask(engine, adapter, tokenizer, decoding, use_adapter=use_adapter)
    assert len(saved) == 3
    assert [folder.exists() for folder in saved] == [False, False, True]


def test_no_prompts_start_no_process(adapter: Adapter, tokenizer: Any, engines: Callable[..., VllmEngine]) -> None:
    engine = engines(python=Path("/nowhere"))
    assert ask(engine, adapter, tokenizer, Decoding(max_new_tokens=4), prompts=[]) == []


@pytest.mark.parametrize(
    ("prompts", "why"),
    [
        ([[3, 4]], r"vLLM ended \(a line of the log\); spec.evaluation.engine: PyTorch answers without it"),
        ([[-1, 4]], r"vLLM ended \(.*\); spec"),
    ],
)
def test_a_process_that_fails_is_told_in_one_line(
    prompts: list[list[int]], why: str, adapter: Adapter, tokenizer: Any, engines: Callable[..., VllmEngine]
) -> None:
    with pytest.raises(RunFailed, match=why) as caught:
        ask(engines(), adapter, tokenizer, Decoding(max_new_tokens=4), prompts=prompts)
    assert "\n" not in str(caught.value)


def test_a_model_that_vllm_cannot_load_is_told_with_the_whole_reason(
    adapter: Adapter, tokenizer: Any, engines: Callable[..., VllmEngine], tmp_path: Path
) -> None:
    model = tmp_path / "missing"
    with pytest.raises(RunFailed, match=rf"1 validation error for ModelConfig Value error, {model} is no folder\)"):
        ask(engines(model=model), adapter, tokenizer, Decoding(max_new_tokens=4))


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("exit 3", "it wrote nothing"),
        ("echo why >&2", "why"),
        ("""exec <&-; echo '{"error": "the reason"}'; sleep 60""", "the reason"),
        ("""exec <&-; echo '{"error": "'$(yes word | head -n 5000)'"}'""", "(word ?){100}"),
    ],
)
def test_a_program_that_reads_nothing_is_told_with_what_it_wrote(
    program: str, why: str, adapter: Adapter, tokenizer: Any, engines: Callable[..., VllmEngine], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    with pytest.raises(RunFailed, match=rf"vLLM ended \({why}\)"):
        ask(engines(python=python), adapter, tokenizer, Decoding(max_new_tokens=4))


def test_an_adapter_that_vllm_cannot_serve_fails_before_it_is_trained(
    folder: Path, tokenizer: Any, engines: Callable[..., VllmEngine]
) -> None:
    """The first answers of a run are those of the base model."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapter = attach_lora(model, Lora(r=16, alpha=8), seed=1)
    with pytest.raises(RunFailed, match="LoRA rank 16 is greater than max_lora_rank 8"):
        ask(engines(), adapter, tokenizer, Decoding(max_new_tokens=4), use_adapter=False)
