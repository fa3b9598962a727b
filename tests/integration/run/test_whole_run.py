"""Whole runs on a tiny model, in this process: what a user gets, under the settings that change the course of a run."""

import hashlib
import json

import pytest
import torch

from tests.cli import write_job
from tests.runner import Runner
from tests.tiny import set_generation_defaults, tiny_job, write_rows, write_tiny_model

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_run_leaves_all_that_a_user_needs(runner: Runner) -> None:
    job = tiny_job(runner.folder)
    ran = runner.run(job)
    assert ran.code == 0, ran.err
    assert {"0", "1", "2", "direct"} == set(runner.stages())
    report = runner.report()
    assert {arm["name"] for arm in report["arms"]} == {"FullPrompt", "QueryOnly", "Direct", "Base"}
    assert f"{runner.output}/report/report.html" in ran.out
    assert "QueryOnly" in ran.out
    assert "<html" in (runner.output / "report/report.html").read_text()
    assert "Send the query alone" in (runner.output / "adapter/README.md").read_text()

    tokens = {arm["name"]: arm["promptTokens"]["mean"] for arm in report["arms"]}
    assert tokens["QueryOnly"] == tokens["Base"] == tokens["Direct"] < tokens["FullPrompt"]

    # Each stage names what it was built on.
    stages = runner.stages()
    assert stages["0"]["parent"] is None
    assert stages["1"]["parent"] and stages["2"]["parent"] and stages["1"]["parent"] != stages["2"]["parent"]
    assert not list(runner.output.glob("stages/*/t*/checkpoints/*"))

    # The second time, nothing is trained, and the report is built again, to the same bytes.
    before = (runner.output / "adapter/adapter_model.safetensors").read_bytes()
    reported = (runner.output / "report/report.html").read_bytes()
    again = runner.run(job)
    assert again.code == 0, again.err
    assert "step" not in again.err
    assert (runner.output / "adapter/adapter_model.safetensors").read_bytes() == before
    assert runner.stages() == stages
    assert (runner.output / "report/report.html").read_bytes() == reported

    (runner.output / "report/report.html").unlink()
    assert runner("report", runner.output).code == 0
    assert (runner.output / "report/report.html").exists()


def test_the_adapter_gives_stock_peft_the_trainers_answers(runner: Runner) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert runner.run(tiny_job(runner.folder)).code == 0
    base = AutoModelForCausalLM.from_pretrained(runner.folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(runner.folder / "model")
    model = PeftModel.from_pretrained(base, str(runner.output / "adapter")).eval()
    rows = [json.loads(line) for line in (runner.folder / "eval.jsonl").read_text().splitlines()]
    for row, expected in zip(rows, runner.predictions("QueryOnly"), strict=True):
        ids = tokenizer(f"{row['query']}\nCode:", return_tensors="pt").input_ids
        written = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
        assert tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True) == expected


def test_predict_and_export(runner: Runner) -> None:
    set_generation_defaults(write_tiny_model(runner.folder / "model"))
    assert runner.run(tiny_job(runner.folder)).code == 0
    rows = [json.loads(line) for line in (runner.folder / "eval.jsonl").read_text().splitlines()]
    stored = runner.predictions("QueryOnly")

    target = runner.folder / "answers.jsonl"
    asked = runner("predict", runner.output, "--input", runner.folder / "eval.jsonl", "--output", target)
    assert asked.code == 0, asked.err
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [a["answer"] for a in answers] == stored
    one = runner("predict", runner.output / "adapter", rows[0]["query"])
    assert one.out.strip() == stored[0].strip()

    exported = runner("export", runner.output, "--merged", runner.folder / "merged")
    assert exported.code == 0, exported.err
    assert "the largest logit difference is" in exported.out
    drift = float(exported.out.split("largest logit difference is ")[1].split()[0])
    assert 0 <= drift < 1e-4
    assert "the next token is equal at 100.0 %" in exported.out
    assert (runner.folder / "merged/model.safetensors").exists()
    settings = json.loads((runner.folder / "merged/generation_config.json").read_text())
    assert not {"repetition_penalty", "temperature", "suppress_tokens"} & settings.keys()
    assert settings["eos_token_id"] == [2]


def test_a_damaged_adapter_is_never_used(runner: Runner) -> None:
    assert runner.run(tiny_job(runner.folder)).code == 0
    weights = runner.output / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    ran = runner("predict", runner.output, "add 1 to 2")
    assert ran.code == 1
    assert "adapter_model.safetensors" in ran.err
    assert "Traceback" not in ran.err


def test_a_gate_that_stops_keeps_the_last_good_stage(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    # A tiny random model answers nothing right, so the scores are replaced: those of stages fall, FullPrompt's do not.
    from promptintern.pipeline.evaluation.arms import Arms

    scores = iter([1.0, 0.0, 0.99, 1.0, 0.5, 1.0, 0.3, 0.3])
    monkeypatch.setattr(Arms, "score", lambda _self, _answers: next(scores))
    evaluation = {"maxNewTokens": 4, "latencyQueries": 0, "gate": {"onFail": "Stop", "maxDrop": 0.02}}
    ran = runner.run(tiny_job(runner.folder, evaluation=evaluation))
    assert ran.code == 1, ran.err
    assert "stage 2/3 fell below the gate" in ran.err
    stages = runner.stages()
    assert (stages["0"]["meta"]["gate"], stages["1"]["meta"]["gate"]) == ("passed", "failed")
    assert "2" not in stages
    assert stages["direct"]["meta"]["epochs"] == 2, "Direct has the budget of the stages that were trained"
    report = runner.report()
    assert report["verdict"]["outcome"] == "StoppedByGate"
    assert report["gate"]["kept"] == 0
    kept = runner.output / f"stages/0/t{stages['0']['term']}/adapter/adapter_model.safetensors"
    assert (runner.output / "adapter/adapter_model.safetensors").read_bytes() == kept.read_bytes()
    assert "it still needs that stage's prompt" in (runner.output / "adapter/README.md").read_text()
    # The kept stage shows examples, so the adapter's folder contains their pool, and predict uses it.
    asked = runner("predict", runner.output, "add 3 to 3")
    assert asked.code == 0, asked.err


def test_optimizer_and_learning_rate_continue_between_stages(runner: Runner) -> None:
    job = tiny_job(runner.folder)
    job["spec"]["training"] |= {"betweenStages": {"optimizer": "Keep", "learningRate": "Continue"}, "warmupRatio": 0}
    assert runner.run(job).code == 0
    rates: list[float] = []
    for key in ("0", "1", "2"):
        term = runner.stages()[key]["term"]
        folder = runner.output / f"stages/{key}/t{term}/adapter"
        rates += json.loads((folder / "trajectory.json").read_text())["learning_rate"]
        assert (folder / "optimizer/state.safetensors").exists()
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(0.01)
    assert len(set(rates)) == len(rates) == 9


def test_a_single_stage_is_compared_with_the_full_prompt(runner: Runner) -> None:
    assert runner.run(tiny_job(runner.folder, schedule={"stages": 1, "shots": 2})).code == 0
    arms = {arm["name"]: arm for arm in runner.report()["arms"]}
    example = len("Question: add 0 to 0\nCode:(0 + 0)\n")
    assert arms["FullPrompt"]["promptTokens"]["mean"] > arms["QueryOnly"]["promptTokens"]["mean"] + 2 * example


def test_precomputed_templates_and_explicit_stages(runner: Runner) -> None:
    job = tiny_job(
        runner.folder,
        schedule={"explicit": [{"templateRate": 0.5, "shots": 1, "epochs": 2}, {"templateRate": 0, "shots": 0}]},
    )
    job["spec"]["prompt"]["compressor"] = {
        "kind": "Precomputed",
        "templates": [
            {"rate": 0.5, "template": "Sum: {examples}{query}\nCode:"},
            {"rate": 0, "template": "{query}\nCode:"},
        ],
    }
    assert runner.run(job).code == 0
    assert [runner.stages()[k]["meta"]["epochs"] for k in ("0", "1")] == [2, 1]
    shown = runner("prepare", runner.folder / "job.yaml")
    assert shown.code == 0, shown.err
    assert "Sum: " in shown.out
    assert "(0 + 0)" in shown.out


def test_chat_models(runner: Runner) -> None:
    write_tiny_model(runner.folder / "model", chat_template=CHAT_TEMPLATE)
    job = tiny_job(runner.folder)
    job["spec"]["prompt"] = {
        "template": "Write code.\n{examples}{query}",
        "chat": True,
        "exampleTemplate": "{query} -> {answer}\n",
    }
    ran = runner.run(job)
    assert ran.code == 0, ran.err
    assert runner("predict", runner.output, "add 1 to 1").code == 0


@pytest.mark.parametrize(
    ("name", "field"), [("train.jsonl", "spec.data.train.uri"), ("other.jsonl", "spec.evaluation.retention.data.uri")]
)
def test_changed_data_is_not_mixed_into_a_run(name: str, field: str, runner: Runner) -> None:
    write_rows(runner.folder / "other.jsonl", 4)
    job = tiny_job(runner.folder)
    job["spec"]["evaluation"]["retention"] = {"data": {"uri": "other.jsonl"}}
    ran = runner.run(job)
    assert ran.code == 0, ran.err
    assert "retention: " in ran.err
    assert "to learn from these answers" not in ran.err, "the file of the check is not for training"
    tiny = write_job(runner.folder, job)
    write_rows(runner.folder / name, 13)
    ran = runner("run", tiny, "--workdir", runner.folder / "runs")
    assert ran.code == 2
    assert f"{field}: the file has changed" in ran.err


def test_a_changed_base_model_is_not_mixed_into_a_run(runner: Runner) -> None:
    job = tiny_job(runner.folder)
    assert runner.run(job).code == 0
    weights = runner.folder / "model/model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-2:] = b"\0\0"
    weights.write_bytes(changed)
    ran = runner.run(job)
    assert ran.code == 2
    assert "spec.model.uri: the base model has changed since this run began" in ran.err
    asked = runner("predict", runner.output, "add 1 to 2")
    assert asked.code == 0
    assert "is not the base model that the adapter was trained on" in asked.err


def test_answers_of_another_adapter_are_not_reused(runner: Runner) -> None:
    """When a stage is trained again, what was measured with its former adapter is stale."""
    job = tiny_job(runner.folder)
    assert runner.run(job).code == 0
    manifest = runner.output / "evaluation/QueryOnly/manifest.json"
    other = json.loads(manifest.read_text()) | {"parent": "0" * 64}
    before = runner.predictions("QueryOnly")
    manifest.write_text(json.dumps(other))
    assert runner.run(job).code == 0
    assert json.loads(manifest.read_text())["parent"] != "0" * 64
    assert runner.predictions("QueryOnly") == before


def test_a_finished_run_with_a_damaged_adapter_says_so(runner: Runner) -> None:
    job = tiny_job(runner.folder)
    assert runner.run(job).code == 0
    weights = runner.output / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    ran = runner.run(job)
    assert ran.code == 1
    assert "adapter/adapter_model.safetensors is not what was committed" in ran.err


def test_predict_reads_and_writes_rows(runner: Runner) -> None:
    assert runner.run(tiny_job(runner.folder)).code == 0
    rows = runner.folder / "queries.jsonl"
    lines = ['{"id": 7, "query": "add 1 to 2"}', '{"id": 8, "query": "a line\u2028break"}']
    rows.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    asked = runner("predict", runner.output, "--input", rows, "--output", "-")
    assert asked.code == 0, asked.err
    answers = [json.loads(line) for line in asked.out.split("\n") if line]
    assert [(a["id"], set(a)) for a in answers] == [(7, {"id", "query", "answer"}), (8, {"id", "query", "answer"})]

    for arguments, message in (
        (["--input", rows, "--output", runner.folder], "--output"),
        (["--input", runner.folder / "train.jsonl", "--base-model", runner.folder / "nope"], "--base-model"),
        (["x" * 2000], "query 1: has "),
        ([" "], "query 1: is empty"),
    ):
        refused = runner("predict", runner.output, *arguments)
        assert refused.code == 2, refused.err
        assert message in refused.err
    other = write_tiny_model(runner.folder / "other", "gpt_neox")
    refused = runner("predict", runner.output, "add 1 to 2", "--base-model", other)
    assert refused.code == 2
    assert "the adapter does not fit this base model" in refused.err
    assert f"trained on file://{runner.folder}/model" in refused.err


def test_one_huge_row_drops_no_other_row(runner: Runner) -> None:
    job = tiny_job(runner.folder)
    with (runner.folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"query": "add " * 2000, "answer": "(1)"}) + "\n")
    job["spec"]["data"]["onTooLong"] = "Drop"
    ran = runner("validate", write_job(runner.folder, job))
    assert ran.code == 0, ran.err
    assert "12 training rows, 4 held-out rows, 1 dropped (too long to train on)" in ran.out


def test_a_precomputed_template_longer_than_the_model_is_refused(runner: Runner) -> None:
    job = tiny_job(
        runner.folder, schedule={"explicit": [{"templateRate": 1, "shots": 0}, {"templateRate": 0, "shots": 0}]}
    )
    job["spec"]["prompt"]["compressor"] = {
        "kind": "Precomputed",
        "templates": [{"rate": 0, "template": "word " * 300 + "{query}\nCode:"}],
    }
    for command in ("validate", "prepare", "run"):
        ran = runner(
            command, write_job(runner.folder, job), *(["--workdir", runner.folder] if command == "run" else [])
        )
        assert ran.code == 2, ran.err
        assert "has more than 1024 tokens of prompt and answer" in ran.err


def test_validate_checks_what_needs_no_weights(runner: Runner) -> None:
    job = tiny_job(runner.folder)
    job["spec"]["training"]["lora"]["targetModules"] = "nope"
    job["spec"]["prompt"]["compressor"] = {"kind": "LLMLingua2", "modelUri": "file:///nonexistent"}
    job["spec"]["prompt"]["template"] += " {schema}"
    ran = runner("validate", write_job(runner.folder, job))
    assert ran.code == 2
    for message in (
        "spec.training.lora.targetModules",
        "spec.prompt.compressor.modelUri",
        "template contains {schema}",
    ):
        assert message in ran.err


def test_chat_files_with_other_system_messages_are_refused(runner: Runner) -> None:
    job = tiny_job(runner.folder)

    def chat(name: str, system: str, count: int) -> None:
        turns = (("system", system), ("user", "{n}"), ("assistant", "({n})"))
        rows = [
            {"messages": [{"role": role, "content": text.format(n=f"{name} {n}")} for role, text in turns]}
            for n in range(count)
        ]
        (runner.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    chat("train", "Be nice.", 8)
    chat("eval", "Be nice.", 2)
    ran = runner("validate", write_job(runner.folder, job))
    assert ran.code == 0, ran.err
    assert "the system message of the chat data is not sent" in ran.err
    chat("eval", "Be rude.", 2)
    ran = runner("validate", write_job(runner.folder, job))
    assert ran.code == 2
    assert "spec.data.eval.uri: has another system message" in ran.err


def test_direct_with_the_stages_tokens_trains_longer(runner: Runner) -> None:
    job = tiny_job(runner.folder)
    job["spec"]["evaluation"] |= {"directBudget": "Tokens"}
    assert runner.run(job).code == 0
    stages = runner.stages()
    total = sum(stages[k]["meta"]["trainingTokens"] for k in ("0", "1", "2"))
    assert stages["direct"]["meta"]["trainingTokens"] == pytest.approx(total, rel=0.1)
    assert stages["direct"]["meta"]["epochs"] > 3


def test_a_full_disk_is_named(runner: Runner) -> None:
    """The file system has 64 KiB. The test is skipped if this process may not mount one."""
    import subprocess

    small = runner.folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    try:
        ran = runner("run", write_job(runner.folder, tiny_job(runner.folder)), "--workdir", small)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert ran.code == 1
    assert "space" in ran.err
    assert str(small) in ran.err
    assert "Traceback" not in ran.err


def test_a_file_in_the_place_of_the_workdir_is_named(runner: Runner) -> None:
    (runner.folder / "file").write_text("")
    ran = runner("run", write_job(runner.folder, tiny_job(runner.folder)), "--workdir", runner.folder / "file")
    assert ran.code == 2, ran.err
    assert str(runner.folder / "file") in ran.err


def test_an_adapter_with_options_that_the_trainer_never_writes_is_refused(runner: Runner) -> None:
    """Whoever can write to the folder can also commit the changed file, so its digest protects nobody."""
    assert runner.run(tiny_job(runner.folder)).code == 0
    adapter = runner.output / "adapter"
    config = adapter / "adapter_config.json"
    content = json.dumps(
        json.loads(config.read_text()) | {"megatron_config": {}, "megatron_core": "evil.core"}
    ).encode()
    config.write_bytes(content)
    manifest = json.loads((adapter / "manifest.json").read_text())
    manifest["files"]["adapter_config.json"] |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (adapter / "manifest.json").write_text(json.dumps(manifest))
    for arguments in (
        ("predict", runner.output, "add 1 to 2"),
        ("export", adapter, "--merged", runner.folder / "merged"),
    ):
        refused = runner(*arguments)
        assert refused.code == 2, refused.err
        assert "adapter_config.json: sets 'megatron_core'" in " ".join(refused.err.split())
        assert "Traceback" not in refused.err
