"""The kubectl commands that the docs, the chart's notes and our messages show, and the rights that they need."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "charts/promptintern/templates/NOTES.txt")
MESSAGES = (ROOT / "trainer/promptintern/cluster", ROOT / "trainer/promptintern/cli", ROOT / "operator")
_KINDS = {
    **dict.fromkeys(("pij", "promptinternjobs", "promptinternjob"), ("promptintern.dev", "promptinternjobs")),
    **dict.fromkeys(("rayjob", "rayjobs"), ("ray.io", "rayjobs")),
    "workload": ("kueue.x-k8s.io", "workloads"),
    "localqueue": ("kueue.x-k8s.io", "localqueues"),
    **dict.fromkeys(("job", "jobs"), ("batch", "jobs")),
    "pods": ("", "pods"),
    "configmaps": ("", "configmaps"),
    "secret": ("", "secrets"),
    "networkpolicies": ("networking.k8s.io", "networkpolicies"),
}
_WITH_VALUE = ("-n", "--namespace", "-o", "-l", "--selector", "--type", "-p", "-f", "--tail")
_VERBS = {"annotate": ["get", "patch"], "label": ["get", "patch"], "patch": ["get", "patch"], "delete": ["delete"]}
_ADMINISTRATORS = re.compile(
    r"promptintern-system|\.Release\.Namespace|--all-namespaces|--subresource=status|-n (?:s3|storage) |"
    r"create (?:namespace|rolebinding)|label namespace|delete crd"
)
"""The commands of people who run the cluster, or who make a namespace for a team."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, and where it is shown."""

    place: str
    text: str

    @property
    def for_tenants(self) -> bool:
        """Whether a tenant is told to run it."""
        return not _ADMINISTRATORS.search(self.text)


@dataclass
class Needs:
    """The rights that a command needs: verb, API group and resource."""

    rights: set[tuple[str, str, str]] = field(default_factory=set)

    def add(self, kind: str, *verbs: str) -> None:
        """Add the rights to ``verbs`` on ``kind``."""
        self.rights |= {(verb, *_KINDS[kind]) for verb in verbs}


def documented() -> Iterator[Command]:
    """Yield every command of kubectl in the pages and messages that has a verb and something to act on."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for code in re.findall(r"^ *(kubectl .*)$", text, re.MULTILINE) + re.findall(r"`(kubectl [^`]+)`", text):
            yield Command(place=page.name, text=code)
    for folder in MESSAGES:
        for path in sorted(folder.rglob("*.py")):
            source = re.sub(r'["\']\s*\n\s*f?["\']', "", path.read_text())
            for code in re.findall(r"kubectl (?:get|describe|patch|delete|annotate|logs) \w+", source):
                yield Command(place=path.name, text=code)


def rights(command: str) -> set[tuple[str, str, str]]:
    """Return the verb, the API group and the resource of each right that ``command`` needs.

    Raises:
        KeyError: if this module does not know the command or its kind.
    """
    words = shlex.split(re.sub(r"\{\{.*?\}\}", "X", command).replace("`", ""), comments=True)[1:]
    words = [word for word in words if word not in ("&", "|")]
    names, flags = [], []
    while words:
        word = words.pop(0)
        if word in _WITH_VALUE:
            flags += [word, words.pop(0)]
        else:
            (flags if word.startswith("-") else names).append(word)
    verb, *rest = names
    needs = Needs()
    if verb == "explain":
        return set()
    if verb == "apply":
        needs.add("pij", "get", "create", "patch")
    elif verb == "create":
        needs.add(rest[0], "create")
    elif verb == "get":
        for kind in rest[0].split(","):
            needs.add(kind, "get" if rest[1:] else "list", *(["watch"] if "--watch" in flags else []))
    elif verb == "describe":
        needs.add(rest[0], "get")
        needs.rights.add(("list", "", "events"))
    elif verb == "wait":
        needs.add(rest[0], "get", "list", "watch")
    elif verb == "cp":
        needs.rights |= {("get", "", "pods"), ("create", "", "pods/exec")}
    else:
        needs.add(rest[0], *_VERBS[verb])
    return needs.rights
