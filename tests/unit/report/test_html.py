"""report.html: its structure, its safety and its content."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from promptintern.report.build import build_report
from promptintern.report.facts import (
    DataFacts,
    DroppedRows,
    RetentionFacts,
    RunFacts,
    SourceFacts,
    TeacherFacts,
    WrittenFacts,
)
from promptintern.report.formatting import MAX_TEXT_LENGTH
from promptintern.report.html import render_html
from promptintern.report.markdown import render_markdown
from promptintern.report.monthly import script
from promptintern.report.schema import report_from_json, report_to_json
from promptintern_api.evaluation import Reference
from promptintern_api.metrics import Metric
from promptintern_api.training import TeacherLoss, TeacherModel

from tests.unit.report.figures import BOTH, facts, stage, throughput

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Elements in order with their attributes and their own text; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for number in self._open:
            self.texts[number] = self.texts.get(number, "") + data

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of every such element."""
        return [(attrs, self.texts.get(i, "")) for i, (name, attrs) in enumerate(self.elements) if name == tag]

    def with_id(self, name: str) -> str:
        """The text of the element with that id."""
        (number,) = [i for i, (_, attrs) in enumerate(self.elements) if attrs.get("id") == name]
        return self.texts[number]


def page_of(run: RunFacts) -> Page:
    return Page(render_html(build_report(run)))


GOOD = facts(metrics=BOTH, rows=60)
STOPPED = facts(stopped_at=1, kept=0, stages=[stage(0), stage(1, score=0.6, gate="failed")])
NOTHING = facts(stopped_at=0, kept=None, result=None, stages=[stage(0, score=0.5, gate="failed")])
UNTIMED = stage(0, count=1).model_copy(
    update={"throughput": throughput().model_copy(update={"computed_tokens_per_second": None, "time_shares": None})}
)
BARE = facts(prices=False, direct=None, base=None, stages=[UNTIMED], kept=0).model_copy(update={"loss": []})
RUNS = {"good": GOOD, "stopped": STOPPED, "nothing": NOTHING, "bare": BARE}


@pytest.fixture(scope="module", params=RUNS, ids=list(RUNS))
def page(request: pytest.FixtureRequest) -> Page:
    return page_of(RUNS[request.param])


def only_our_script(page: Page) -> None:
    """Check that the page has no script, or the one of ours, and that it allows no other."""
    (policy,) = [a["content"] or "" for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    scripts = page.all("script")
    assert scripts in ([], [({}, script())])
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    allowed = re.findall(r"script-src ([^;]*);", policy)
    assert allowed == ([f"'sha256-{digest}'"] if scripts else [])


def test_the_verdict_comes_first() -> None:
    page = page_of(GOOD)
    heading = page.all("h1")
    assert len(heading) == 1
    assert heading[0][1].replace("\u00a0", " ") == build_report(GOOD).verdict.headline
    assert page.with_id("outcome").strip() == "~ Inconclusive"
    order = [tag for tag, _ in page.elements]
    assert order.index("h1") < order.index("table")
    assert order.index("h1") < order.index("svg")


def test_headings_go_down_one_level_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_every_plot_has_a_name_and_a_description(page: Page) -> None:
    images = [attrs for attrs, _ in page.all("svg") if attrs.get("role") == "img"]
    assert images
    for attrs in images:
        title, description = (page.with_id(name) for name in (attrs["aria-labelledby"] or "").split())
        assert len(title) > 10
        assert len(description) > 15
    others = [attrs for attrs, _ in page.all("svg") if attrs.get("role") != "img"]
    assert all(attrs.get("aria-hidden") == "true" for attrs in others)


def test_ids_are_unique_and_every_reference_has_its_target(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        for name in (attrs.get("aria-labelledby") or "").split():
            assert name in ids
        if (href := attrs.get("href") or "").startswith("#"):
            assert href[1:] in ids


def test_nothing_comes_from_elsewhere(page: Page) -> None:
    only_our_script(page)
    assert page.all("iframe") == page.all("object") == []
    for _, attrs in page.elements:
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in {"src", "href", "action", "srcset", "data", "xlink:href"}:
                assert (value or "").startswith(("#", "data:"))
    (style,) = page.all("style")
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    (policy,) = [a for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "unsafe-eval" not in (policy["content"] or "")
    assert (policy["content"] or "").startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


def test_language_viewport_and_tables(page: Page) -> None:
    assert page.all("html")[0][0]["lang"] == "en"
    assert any(a.get("name") == "viewport" for a, _ in page.all("meta"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attrs.get("scope") in {"row", "col"} for attrs, _ in page.all("th"))
    regions = [a for a, _ in page.all("div") if a.get("class") == "scroll"]
    assert len(regions) == len(page.all("table"))
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in regions)


def test_hostile_text_stays_text() -> None:
    evil = "</code><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"
    run = facts(rows=20, result=0.5, warnings=[evil])
    rows = [row.model_copy(update={"query": evil, "id": evil, "accepted": [evil]}) for row in run.rows]
    job = run.job.model_copy(update={"device": evil, "settings": {evil: evil}, "versions": {evil: evil}})
    answers = [[evil] * 20, [f"not {evil}"] * 20, [evil] * 20, [evil] * 20]
    arms = [a.model_copy(update={"predictions": p}) for a, p in zip(run.arms, answers, strict=True)]
    page = page_of(run.model_copy(update={"rows": rows, "job": job, "arms": arms}))
    only_our_script(page)
    assert page.all("img") == []
    texts = [text for attrs, text in page.all("dd") if attrs.get("class") == "verbatim"]
    assert evil in texts
    assert all(attrs.get("dir") == "auto" for attrs, _ in page.all("dd") if attrs.get("class") == "verbatim")


def test_a_very_long_answer_is_cut_and_says_so() -> None:
    run = facts(rows=20, result=0.5)
    arms = [a.model_copy(update={"predictions": ["x" * 100_000] * 20}) if i == 1 else a for i, a in enumerate(run.arms)]
    text = render_html(build_report(run.model_copy(update={"arms": arms})))
    assert f"({100_000 - MAX_TEXT_LENGTH:,} more characters)" in text
    assert len(text) < 250_000


HOSTILE = {
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(2)></code></dd></article>",
    "escapes": "\x1b]0;taken\x07\x1b[2J\x9b31m\x00\x08",
    "text turned around": "\u202eevil\u2066\u2029\u2028",
    "templates": "{{ 7 * 7 }}{% raw %}",
    "a long line": "<&\u4e2d" * 350_000,  # more than 1 MB in UTF-8
}
MAX_BYTES = 3_000_000


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts_are_shown_safely_and_in_little_space(kind: str) -> None:
    evil = HOSTILE[kind]
    run = facts(rows=60, result=0.5, warnings=[evil] * 3)
    rows = [
        row.model_copy(update={"query": evil, "id": f"{i}{evil}", "accepted": [evil]}) for i, row in enumerate(run.rows)
    ]
    answers = [[evil] * 30 + [f"not {evil}"] * 30, [f"not {evil}"] * 30 + [evil] * 30, [evil] * 60, [evil] * 60]
    arms = [arm.model_copy(update={"predictions": p}) for arm, p in zip(run.arms, answers, strict=True)]
    report = build_report(
        run.model_copy(update={"rows": rows, "arms": arms, "notes": [evil], "metrics": [Metric.EXACT_MATCH]})
    )
    assert (report.examples.gained_total, report.examples.lost_total) == (30, 30)
    texts = render_html(report), report_to_json(report), render_markdown(report)
    assert max(len(text.encode()) for text in texts) < MAX_BYTES
    assert report_from_json(texts[1]) == report
    page = Page(texts[0])
    only_our_script(page)
    assert page.all("img") == []
    assert len(page.all("article")) == 2 * 20
    for text in texts[0], texts[2]:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text)


def test_control_characters_are_shown_as_escapes() -> None:
    page = page_of(facts(result=0.5, warnings=["a\u202eb\x1b[0m"]))
    assert any("a\\u202eb\\u001b[0m" in text for _, text in page.all("li"))


def test_gained_and_lost_rows_are_shown() -> None:
    page = page_of(facts(rows=60, full=0.9, result=0.8))
    articles = page.all("article")
    report = build_report(facts(rows=60, full=0.9, result=0.8))
    assert len(articles) == len(report.examples.gained) + len(report.examples.lost) > 0
    assert report.examples.lost[0].query in articles[0][1]
    assert report.examples.lost[0].with_result in articles[0][1]


def test_a_run_that_kept_nothing_shows_no_result() -> None:
    page = page_of(NOTHING)
    assert page.all("article") == []
    assert "QueryOnly" not in "".join(text for _, text in page.all("td"))
    assert page.all("h1")[0][1].endswith("so there is no adapter.")


def test_the_throughput_of_every_training_that_was_timed() -> None:
    run = facts(stages=[UNTIMED, *(stage(i) for i in range(1, 4))])
    (table,) = [text for _, text in page_of(run).all("table") if "Training throughput" in text]
    stages, direct = table.split("Stage 2")[1], table.split("Direct")[1]
    assert "Stage 1" not in table
    assert "data · forward · backward · optimizer · save" in table
    for text in ("19.5", "11,200 · 3,900 · 390", "2 % · 40 % · 50 % · 7 % · 1 %"):
        assert text in stages
    assert "MFU" in table
    assert "31 %" in direct
    assert "MFU" not in "".join(text for _, text in page_of(STOPPED.model_copy(update={"direct": None})).all("table"))
    assert not [text for _, text in page_of(BARE).all("caption") if "throughput" in text]


def taught(**changes: object) -> RunFacts:
    """A run that learned from queries without answers."""
    run = facts(direct=None)
    data = DataFacts(
        queries=SourceFacts(
            uri="s3://team-a/<log>.jsonl",
            digest="c3" * 32,
            rows=900,
            dropped=[DroppedRows(reason="the teacher's answer is empty", rows=100)],
        ),
        eval=run.data.eval,
    )
    teacher = TeacherFacts(
        loss=TeacherLoss.FORWARD_KL,
        top_k=64,
        weight=1,
        answer_tokens=12_000,
        answer_seconds=60,
        score_seconds=5,
    )
    return run.model_copy(update={"data": data, "teacher": teacher, **changes})


def test_a_run_without_written_answers_shows_its_teacher() -> None:
    text = " ".join(Page(render_html(build_report(taught()))).texts[0].split())
    assert "Queries that the teacher answered" in text
    assert "100 left out: the teacher's answer is empty" in text
    assert "divergence over its 64 most likely tokens and all other tokens together." in text
    assert "to generate 12,000 answer tokens (200 per second), and 5.0 s to compute their probabilities." in text
    assert "c3" * 32 in text
    assert "Training rows" not in text
    assert "Training file" not in text
    weighted = TeacherFacts(loss=TeacherLoss.ANSWERS, weight=2)
    text = " ".join(Page(render_html(build_report(taught(teacher=weighted)))).texts[0].split())
    assert "The loss is the cross-entropy of the teacher's answers, with weight 2." in text
    drawn = TeacherFacts(loss=TeacherLoss.ANSWERS, weight=1, samples=5, temperature=0.7)
    text = " ".join(Page(render_html(build_report(taught(teacher=drawn)))).texts[0].split())
    assert "Of 5 answers to each query, drawn at temperature 0.7, the most frequent one is learned." in text


def test_agreement_with_the_full_prompt_is_called_so() -> None:
    run = facts().model_copy(update={"reference": Reference.FULL_PROMPT})
    report = build_report(run)
    assert "exact match with the answers of the full prompt" in report.verdict.headline
    assert "against 100.0 %" not in report.verdict.headline
    text = " ".join(Page(render_html(report)).texts[0].split())
    assert "The answers of every arm are compared with the answers of FullPrompt, not with written answers." in text


def test_entries_that_no_row_mentions_are_named() -> None:
    one = facts().model_copy(update={"uncovered": ["claims=<KD>"]})
    (warning,) = (w for w in build_report(one).warnings if w.startswith("No training row mentions"))
    assert "1 entry of the template's lists: claims=<KD>." in warning
    assert "claims=&lt;KD&gt;" in render_html(build_report(one))
    many = facts().model_copy(update={"uncovered": [f"e{i}" for i in range(30)]})
    (warning,) = (w for w in build_report(many).warnings if w.startswith("No training row mentions"))
    assert "30 entries" in warning
    assert "e11 and 18 more." in warning
    assert not [w for w in build_report(facts()).warnings if w.startswith("No training row mentions")]


def test_a_run_without_a_teacher_names_none() -> None:
    assert "Teacher" not in Page(render_html(build_report(facts()))).texts[0]


def test_the_same_report_gives_the_same_bytes() -> None:
    assert render_html(build_report(STOPPED)) == render_html(build_report(STOPPED))


def text_of(run: RunFacts) -> str:
    return " ".join(Page(render_html(build_report(run))).texts[0].split())


def test_the_check_under_another_prompt_is_shown_and_a_failure_is_a_warning() -> None:
    retention = RetentionFacts(
        prompts=200, changed=20, tokens=900, divergence=0.051, max_divergence=0.25, max_changed=0.2, neutral=False
    )
    run = facts().model_copy(update={"retention": retention})
    assert "Under another prompt20 of 200 answers changed (limit 20 %). The divergence" in text_of(run)
    assert "The check passed." in text_of(run)
    assert not [w for w in build_report(run).warnings if "other prompts" in w]
    failed = facts().model_copy(
        update={"retention": retention.model_copy(update={"divergence": 0.7, "neutral": True, "max_changed": None})}
    )
    assert "Under neutral prompts20 of 200 answers changed. The divergence from the base model is 0.7" in text_of(
        failed
    )
    assert "The check failed." in text_of(failed)
    (warning,) = (w for w in build_report(failed).warnings if "other prompts" in w)
    assert "is 0.7 nats per token (the job allows 0.25)" in warning


def test_queries_that_the_base_model_wrote_are_counted() -> None:
    run = taught()
    written = WrittenFacts(
        drawn=512, valid=450, rows=400, dropped=[DroppedRows(reason="the query repeats another one", rows=62)]
    )
    run = run.model_copy(update={"data": run.data.model_copy(update={"queries": None, "written": written})})
    text = text_of(run)
    assert "Queries that the base model wrote400 learned from. Of 512 that were drawn, 450 (88 %) are valid" in text
    assert "62 left out: the query repeats another one" in text
    assert "Queries that the teacher answered" not in text


def test_the_teacher_of_each_stage_is_named() -> None:
    run = facts()
    stages = [stage.model_copy(update={"teacher": f"stage {i}" if i else None}) for i, stage in enumerate(run.stages)]
    teacher = TeacherFacts(model=TeacherModel.PREVIOUS_STAGE, loss=TeacherLoss.FORWARD_KL, top_k=8, weight=1)
    text = text_of(run.model_copy(update={"stages": stages, "teacher": teacher}))
    assert "taught by stage 1" in text
    assert "The teacher scored the written answers if it was a stage. The loss" in text


def test_a_stage_that_an_adaptive_schedule_discarded_is_named() -> None:
    run = facts()
    stages = [
        stage.model_copy(update={"position": 4 * i, "accepted": i != 1, "gate": "failed" if i == 1 else "passed"})
        for i, stage in enumerate(run.stages)
    ]
    report = build_report(run.model_copy(update={"stages": stages}))
    assert any("The score of stage 2 dropped too far" in note for note in report.notes)
    assert not [w for w in report.warnings if "fell below the gate" in w]
    assert "the stage before it that was not discarded" in text_of(run.model_copy(update={"stages": stages}))
    everything = [stage.model_copy(update={"accepted": True}) for stage in stages]
    assert any(
        "none of which was discarded" in n for n in build_report(run.model_copy(update={"stages": everything})).notes
    )


def test_sentences_that_no_row_needs_are_named() -> None:
    run = facts().model_copy(update={"unneeded": ["Be <polite>.", "Think first."]})
    (note,) = (n for n in build_report(run).notes if n.startswith("Without one of these sentences"))
    assert "\u201cBe <polite>.\u201d \u201cThink first.\u201d" in note
    assert "Be &lt;polite&gt;." in render_html(build_report(run))


def test_the_verdict_is_about_the_kept_stage_even_if_a_discarded_one_came_later() -> None:
    run = facts()
    kept = run.stages[-1].model_copy(update={"position": 16, "accepted": False})
    later = kept.model_copy(
        update={"index": kept.index + 1, "position": 12, "requested_rate": 0.4, "achieved_rate": 0.37}
    )
    stages = [
        *(s.model_copy(update={"position": i, "accepted": True}) for i, s in enumerate(run.stages[:-1])),
        kept,
        later,
    ]
    report = build_report(run.model_copy(update={"stages": stages}))
    assert report.verdict.headline.startswith("The query alone")
    assert any("but the schedule had to end there" in note for note in report.notes)
