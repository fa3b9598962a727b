"""A run with every arm: which arms there are, what they train on, and what the report says of them."""

import re
from typing import Any

from tests.cli import write_job
from tests.runner import Runner
from tests.tiny import tiny_job

ARMS = ["FullPrompt", "QueryOnly", "Direct", "Base", "FullPromptTuned", "TemplateOnly", "CompressedOnly"]
PRICES = {"inputPerMillion": 1, "cachedInputPerMillion": 0.1, "outputPerMillion": 4, "devicePerHour": 2}


def run(runner: Runner, job: dict[str, Any]) -> dict[str, Any]:
    """Run a job and return its report."""
    ran = runner.run(job)
    assert ran.code == 0, ran.err
    return runner.report()


def test_every_arm(runner: Runner) -> None:
    job = tiny_job(runner.folder)
    job["spec"]["evaluation"] |= {"arms": ARMS, "prices": PRICES}
    report = run(runner, job)
    arms = {arm["name"]: arm for arm in report["arms"]}
    # The prompt of stage 1 is the full prompt, and that of stage 3 is the query alone: they are FullPrompt and Base.
    assert set(arms) == {*ARMS[:6], "CompressedOnly-2"}
    assert arms["FullPromptTuned"]["promptTokens"] == arms["FullPrompt"]["promptTokens"]
    middle = arms["CompressedOnly-2"]["promptTokens"]["mean"]
    assert arms["Base"]["promptTokens"]["mean"] < middle < arms["FullPrompt"]["promptTokens"]["mean"]
    assert arms["CompressedOnly-2"]["description"].startswith("base weights, ")
    pairs = {(c["arm"], c["against"]) for c in report["comparisons"]}
    assert {("QueryOnly", "FullPromptTuned"), ("FullPromptTuned", "FullPrompt")} <= pairs
    stage, direct, tuned = report["stages"][0], report["direct"], report["tuned"]
    assert tuned["rows"] == direct["rows"] == stage["rows"]
    assert tuned["epochs"] == direct["epochs"] == sum(stage["epochs"] for stage in report["stages"])
    assert (tuned["requestedRate"], tuned["shots"]) == (1, 2)
    assert {curve["track"] for curve in report["loss"]} == {"0", "1", "2", "direct", "tuned"}
    for name in ("FullPrompt", "TemplateOnly"):
        arm = arms[name]
        assert arm["sharedTokens"] >= len("Write the sum as code.") and "keptLatency" in arm
        assert arm["computedTokens"] == arm["promptTokens"]["mean"] - arm["sharedTokens"]
        assert arm["keptCostPerThousand"] < arm["costPerThousand"]
    assert arms["TemplateOnly"]["computedTokens"] < arms["FullPrompt"]["computedTokens"]
    assert report["training"]["cost"] > 0 and report["training"]["paysFrom"] > 0
    assert report["job"]["keyValueBytes"] == 2 * 2 * 2 * 8 * 4
    page = (runner.output / "report/report.html").read_text()
    for text in ("FullPromptTuned", "CompressedOnly-2", "On a server that keeps the beginning", "It pays from"):
        assert text in page


def test_the_budget_in_tokens_holds_for_the_full_prompt_too(runner: Runner) -> None:
    job = tiny_job(runner.folder)
    job["spec"]["evaluation"] |= {
        "arms": ["FullPrompt", "QueryOnly", "Direct", "FullPromptTuned"],
        "directBudget": "Tokens",
    }
    job["spec"]["training"]["epochsPerStage"] = 2
    report = run(runner, job)
    budget = sum(stage["trainingTokens"] for stage in report["stages"])
    for arm in ("direct", "tuned"):
        per_epoch = report[arm]["trainingTokens"] / report[arm]["epochs"]
        assert abs(report[arm]["trainingTokens"] - budget) <= per_epoch
    assert report["tuned"]["epochs"] < report["direct"]["epochs"]


def test_runs_are_compared_in_one_table(runner: Runner) -> None:
    for seed in range(2):
        job = tiny_job(runner.folder)
        job["metadata"]["name"] = f"seed-{seed}"
        job["spec"]["training"]["seed"] = seed
        job["spec"]["evaluation"]["arms"] = ["FullPrompt", "QueryOnly"]
        ran = runner.run(job)
        assert ran.code == 0, ran.err
    folders = sorted((runner.folder / "runs").glob("*/*"))
    assert all((folder / "report/report.md").read_text().startswith("# default/seed") for folder in folders)
    for suffix in ("md", "html"):
        file = runner.folder / f"compare.{suffix}"
        ran = runner("compare", *folders, "--output", file)
        assert ran.code == 0, ran.err
        assert "seed-0 and 1 more" in ran.out
        assert "1 more" in file.read_text()
    for arguments, message in (
        ((runner.folder / "model",), "report/report.json: is missing; give the folder of a finished run"),
        ((folders[0], "--output", runner.folder / "compare.pdf"), "--output: must end in .md or .html, not in .pdf"),
    ):
        ran = runner("compare", *arguments)
        assert ran.code == 2
        assert message in ran.err
    (folders[0] / "report/report.json").write_text('{"schemaVersion": "2.1"}')
    ran = runner("compare", folders[0])
    assert ran.code == 2
    assert "`promptintern report` writes it again" in ran.err


def test_an_estimate_stores_nothing_and_says_why(runner: Runner) -> None:
    """A tiny random model answers nothing right, whatever the prompt."""
    job = tiny_job(runner.folder)
    job["spec"]["evaluation"]["prices"] = PRICES
    before = sorted(runner.folder.rglob("*"))
    file = write_job(runner.folder, job)
    ran = runner("prepare", file, "--estimate")
    assert ran.code == 0, ran.err
    assert "Not worth trying: this model hardly ever answers right, even with the full prompt" in ran.out
    assert re.search(r"1\d\d and 19.0; of the former, \d+ are in every prompt", ran.out), ran.out
    for name in ("time to train all stages here", "pays from", "if the server keeps the beginning of prompts"):
        assert name in ran.out
    assert sorted(runner.folder.rglob("*")) == sorted([*before, file])
