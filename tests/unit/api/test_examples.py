"""Every job in examples/ and in the docs is valid, for `promptintern run` and for the API server."""

import re
from pathlib import Path

from promptintern.job import load_job

from tests.unit.api.admission import refusals

ROOT = Path(__file__).parents[3]


def shown_jobs(folder: Path) -> dict[str, Path]:
    """Files with every job that users are shown, by where it stands; those in prose are copied to ``folder``."""
    found = {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "examples").rglob("*.yaml"))}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        for block in re.finditer(r"^```ya?ml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            if "kind: PromptInternJob" in block[1]:
                place = f"{page.name}:{text[: block.start()].count(chr(10)) + 1}"
                found[place] = folder / f"{len(found)}.yaml"
                found[place].write_text(block[1], encoding="utf-8")
    return found


def test_jobs_shown_to_users_are_valid(tmp_path: Path) -> None:
    shown = shown_jobs(tmp_path)
    assert any(place.startswith("examples") for place in shown)
    for place, path in shown.items():
        assert refusals(load_job(path).to_wire()) == [], place
