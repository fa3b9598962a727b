"""docs/conditions.md has every condition and every reason that the operator's code holds, and no other."""

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
    # KubeRay's words for a RayJob's state
    *("Complete", "Initializing", "RUNNING", "STOPPED", "SUCCEEDED", "Suspending"),
    *("User", "Infrastructure"),  # the trainer's words for a failure's class
    "OOMKilled",  # a container's; ours is OutOfMemory
    # why a node or the cluster took a pod; ours are PodLost and Preempted
    *("Evicted", "NodeLost", "NodeAffinity", "NodeShutdown", "Terminated", "Shutdown", "UnexpectedAdmissionError"),
    *("DeletionByPodGC", "PreemptionByScheduler", "EvictionByEvictionAPI", "DeletionByTaintManager"),
    "TerminationByKubelet",
    "KubeRayPresent",  # of a KubeRay that is as it should be, which no condition tells
}
"""Words in capitals in the code that never are a condition's reason."""


def words() -> set[str]:
    """Every text of the code that could be a reason, types of conditions among them."""
    found = {
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
    return found - exported - names


def said() -> Iterator[tuple[str, str | None, str | None]]:
    """Condition, status and reason of every place where the code says one; None for what is worked out there."""
    statuses = {"True": "True", "False": "False", "None": "Unknown"}
    for tree in CODE:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "draft.set_condition" and len(node.args) > 2:
                kind, status, reason = node.args[:3]
                assert isinstance(kind, ast.Constant)
                text = reason.value if isinstance(reason, ast.Constant) else None
                yield str(kind.value), statuses.get(ast.unparse(status)), text


def section(title: str) -> str:
    """The text below a heading."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> dict[str, str]:
    """The second column by each reason in the first one."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            found |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells[1])
    return found


KINDS = {kind for kind, _, _ in said()}
SECTIONS = {kind: section("Succeeded and Failed" if kind in ("Succeeded", "Failed") else kind) for kind in KINDS}
FOREIGN = set(re.findall(r"`(\w+)`", "".join(re.findall(r"<!-- reasons of \w+: begin -->(.*?)<!--", PAGE, re.DOTALL))))
"""What Kueue and KubeRay say, and the operator passes on."""


def test_every_condition_has_a_section() -> None:
    assert len(KINDS) == 7
    assert all(rows(text) for text in SECTIONS.values()), [kind for kind, text in SECTIONS.items() if not text]


def test_every_reason_of_the_code_is_documented() -> None:
    documented = set(rows(PAGE)) | KINDS
    assert words() - NO_REASONS - {"ErrImagePull"} <= documented
    assert "`ErrImagePull`" in PAGE


def test_every_documented_reason_is_in_the_code() -> None:
    text = re.sub(r"<!-- reasons of \w+: begin -->.*?end -->", "", PAGE, flags=re.DOTALL)
    assert set(rows(text)) <= words()
    assert not FOREIGN & (words() - NO_REASONS)


def test_words_that_are_no_reasons_are_still_in_the_code() -> None:
    assert words() >= NO_REASONS


def test_each_condition_has_its_reasons_with_their_status() -> None:
    for kind, status, reason in said():
        if reason is None:
            continue
        told = rows(SECTIONS[kind])
        assert reason in told, f"{kind}: {reason}"
        assert told[reason] == status, f"{kind}: {reason} is {status}"


def test_every_phase_and_outcome_is_documented() -> None:
    phases, outcomes = section("Phases"), section("Attempts")
    assert [phase for phase in Phase if not re.search(rf"^\| .*{phase}\b.* \|", phases, re.MULTILINE)] == []
    assert [outcome for outcome in Outcome if not re.search(rf"^\| .*{outcome}\b", outcomes, re.MULTILINE)] == []
