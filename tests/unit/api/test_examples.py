"""Every job in examples/ and in the docs is valid, for `promptintern run` and for the API server."""

import re
from pathlib import Path

from promptintern.job import load_job

from tests.unit.api.admission import refusals

ROOT = Path(__file__).parents[3]


def shown_jobs(folder: Path) -> dict[str, Path]:
    """Return the files of all jobs that users see, by their place. Jobs in Markdown are copied to ``folder``."""
    jobs = {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "examples").rglob("*.yaml"))}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        for block in re.finditer(r"^```ya?ml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            if "kind: PromptInternJob" in block[1]:
                place = f"{page.name}:{text[: block.start()].count(chr(10)) + 1}"
                jobs[place] = folder / f"{len(jobs)}.yaml"
                jobs[place].write_text(block[1], encoding="utf-8")
    return jobs


def test_jobs_shown_to_users_are_valid(tmp_path: Path) -> None:
    jobs = shown_jobs(tmp_path)
    assert any(place.startswith("examples") for place in jobs)
    for place, path in jobs.items():
        assert refusals(load_job(path).to_wire()) == [], place
