"""The model card of an adapter: what it says is executed, and gives the answers of the run."""

import json
from typing import Any

import pytest

from tests.runner import Runner
from tests.tiny import CHAT, THINK, TURNS, append_end_token, set_generation_defaults, tiny_job, write_tiny_model


@pytest.mark.parametrize(
    ("template", "stop", "adds_end"),
    [
        (None, [], False),
        (None, [")", "\n"], False),
        (None, [], True),
        (CHAT, [], False),
        (THINK, [")"], True),
        (TURNS, [], False),
    ],
)
def test_the_model_card_tells_how_to_ask_the_adapter(
    runner: Runner, template: str | None, stop: list[str], adds_end: bool
) -> None:
    """The code of the card is executed, and its request to a server is rendered; both ask what `predict` asks."""
    added = ["<|im_start|>", "<|im_end|>"] if template == TURNS else []
    model = write_tiny_model(runner.folder / "model", chat_template=template, added=added)
    set_generation_defaults(model)
    if adds_end:
        append_end_token(model)
    job = tiny_job(runner.folder)
    job["spec"]["schedule"] = {"stages": 1, "shots": 0}
    job["spec"]["evaluation"]["stop"] = stop
    job["spec"]["prompt"]["template"] = job["spec"]["prompt"]["template"].replace("code.", "```code```.")
    if template:
        job["spec"]["prompt"] |= {"chat": True, "protect": []}
    ran = runner.run(job)
    assert ran.code == 0, ran.err
    adapter = runner.output / "adapter"
    card = (adapter / "README.md").read_text()
    assert "{examples}" not in card
    assert ("enable_thinking=False` to the chat template" in card) == (template == THINK)
    assert ("as the user turn of the base model's chat template" in card) == (template is not None)

    namespace: dict[str, Any] = {}
    exec(runner.card_block("python").replace('"."', f'"{adapter}"', 1), namespace)
    rows = [json.loads(line) for line in (runner.folder / "eval.jsonl").read_text().splitlines()]
    answered = [namespace["answer"](row["query"]) for row in rows]
    assert answered == runner.predictions("QueryOnly")

    request = json.loads(runner.card_block("json"))
    assert request.get("stop", []) == stop + (["<|im_end|>"] if template == TURNS else [])
    assert request.get("stop_token_ids", []) == ([260] if template == TURNS else [])
    assert (request["temperature"], request["repetition_penalty"], request["max_tokens"]) == (0, 1, 8)
    assert request["model"].startswith("tiny-")
    assert f"vllm serve {model} --dtype float32" in card
    assert f"--lora-modules {request['model']}=" in card and "--max-lora-rank 8" in card
    tokenizer = namespace["tokenizer"]
    if template:
        options = request.get("chat_template_kwargs", {})
        text = tokenizer.apply_chat_template(request["messages"], tokenize=False, add_generation_prompt=True, **options)
        expected = tokenizer.apply_chat_template(
            request["messages"], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        assert text == expected
    else:
        starts = [tokenizer.bos_token_id] if adds_end else []
        assert "messages" not in request and "{query}" in request["prompt"]
        sent = tokenizer(request["prompt"], add_special_tokens=request.get("add_special_tokens", True)).input_ids
        assert sent == starts + tokenizer("{query}\nCode:", add_special_tokens=False).input_ids
