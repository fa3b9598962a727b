"""docs/conditions.md documents every condition and every reason in the operator's code, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from promptintern_api.status import Outcome, Phase

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "conditions.md").read_text(encoding="utf-8")
OPERATOR = ROOT / "operator" / "promptintern_operator"
CODE = [ast.parse(path.read_text()) for path in (*sorted((OPERATOR / "plan").glob("*.py")), OPERATOR / "kuberay.py")]

NO_REASONS = {
    *("True", "False", "Unknown"),
    # KubeRay's states of a RayJob
    *("Complete", "Initializing", "RUNNING", "STOPPED", "SUCCEEDED", "Suspending"),
    *("User", "Infrastructure"),  # the trainer's classes of failures
    "OOMKilled",  # a container's; ours is OutOfMemory
    # why a node or the cluster removed a pod; ours are PodLost and Preempted
    *("Evicted", "NodeLost", "NodeAffinity", "NodeShutdown", "Terminated", "Shutdown", "UnexpectedAdmissionError"),
    *("DeletionByPodGC", "PreemptionByScheduler", "EvictionByEvictionAPI", "DeletionByTaintManager"),
    "TerminationByKubelet",
    "KubeRayPresent",  # of a usable KubeRay, which no condition reports
}
"""Capitalized words in the code that are never the reason of a condition."""


def words() -> set[str]:
    """Return every string in the code that could be a reason, including the types of conditions."""
    texts = {
        node.value
        for tree in CODE
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch("[A-Z][A-Za-z]+", node.value)
    }
    exported = {
        item.value
        for tree in CODE
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for item in ast.walk(node.value)
        if isinstance(item, ast.Constant)
    }
    names = {node.name for tree in CODE for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    return texts - exported - names


def reported_conditions() -> Iterator[tuple[str, str | None, str | None]]:
    """Yield condition, status and reason of every call that sets a condition; None stands for a computed value."""
    statuses = {"True": "True", "False": "False", "None": "Unknown"}
    for tree in CODE:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "draft.set_condition" and len(node.args) > 2:
                kind, status, reason = node.args[:3]
                assert isinstance(kind, ast.Constant)
                text = reason.value if isinstance(reason, ast.Constant) else None
                yield str(kind.value), statuses.get(ast.unparse(status)), text


def section(title: str) -> str:
    """Return the text below a heading."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> dict[str, str]:
    """Return the second column, by each reason in the first column."""
    table = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            table |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells[1])
    return table


KINDS = {kind for kind, _, _ in reported_conditions()}
SECTIONS = {kind: section("Succeeded and Failed" if kind in ("Succeeded", "Failed") else kind) for kind in KINDS}
FOREIGN = set(re.findall(r"`(\w+)`", "".join(re.findall(r"<!-- reasons of \w+: begin -->(.*?)<!--", PAGE, re.DOTALL))))
"""Reasons of Kueue and KubeRay that the operator passes on."""


def test_every_condition_has_a_section() -> None:
    assert len(KINDS) == 8
    assert all(rows(text) for text in SECTIONS.values()), [kind for kind, text in SECTIONS.items() if not text]


def test_every_reason_of_the_code_is_documented() -> None:
    documented = set(rows(PAGE)) | KINDS
    assert words() - NO_REASONS - {"ErrImagePull"} <= documented
    assert "`ErrImagePull`" in PAGE


def test_every_documented_reason_is_in_the_code() -> None:
    text = re.sub(r"<!-- reasons of \w+: begin -->.*?end -->", "", PAGE, flags=re.DOTALL)
    assert set(rows(text)) <= words()
    assert not FOREIGN & (words() - NO_REASONS)


def test_words_that_are_not_reasons_are_still_in_the_code() -> None:
    assert words() >= NO_REASONS


def test_each_condition_has_its_reasons_with_their_status() -> None:
    for kind, status, reason in reported_conditions():
        if reason is None:
            continue
        documented = rows(SECTIONS[kind])
        assert reason in documented, f"{kind}: {reason}"
        assert documented[reason] == status, f"{kind}: {reason} is {status}"


def test_every_phase_and_outcome_is_documented() -> None:
    phases, outcomes = section("Phases"), section("Attempts")
    assert [phase for phase in Phase if not re.search(rf"^\| .*{phase}\b.* \|", phases, re.MULTILINE)] == []
    assert [outcome for outcome in Outcome if not re.search(rf"^\| .*{outcome}\b", outcomes, re.MULTILINE)] == []
