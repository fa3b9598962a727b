"""What Kopf gets to see of listings and watches, and what it never sees: objects that it could not parse."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptintern_operator import intake
from promptintern_operator.intake import _LINE_BYTES, reduce_event, reduce_page, reduce_stream, skip_object
from promptintern_operator.metrics import SKIPPED_OBJECTS
from promptintern_operator.parsing import TOO_DEEP, parse, prune
from promptintern_operator.plan.classify import ending_of
from promptintern_operator.views import JobView, PodView, RayJobView

from tests.unit.operator.fake_kube import job_body

DEEP = '{"a":' * 3_000 + "1" + "}" * 3_000
DEEPER = '{"a":' * 50_000 + "1" + "}" * 50_000
"""A value that is too large to be pruned."""
CREATED = "2026-01-02T03:04:05Z"


def nested(depth: int) -> Any:
    value: Any = "leaf"
    for _ in range(depth):
        value = {"a": [value]}
    return value


def meta(name: str, **more: Any) -> dict[str, Any]:
    labels = {"promptintern.dev/job": "small", "promptintern.dev/job-uid": "job-1", "app": "x" * 60}
    return {
        "name": name,
        "namespace": "team-a",
        "uid": f"uid-{name}",
        "resourceVersion": "7",
        "creationTimestamp": CREATED,
        "labels": labels,
        **more,
    }


def text(body: dict[str, Any], *, deep_at: str = "DEEP") -> str:
    """Return JSON in which the value "DEEP" nests deeper than a parser follows."""
    return json.dumps(body).replace(f'"{deep_at}"', DEEP)


POISON: dict[str, dict[str, Any]] = {
    "promptinternjobs": job_body({}),
    "pods": {"metadata": meta("pod"), "spec": {}, "status": {}},
    "rayjobs": {"metadata": meta("ray"), "spec": {}, "status": {}},
    "jobs": {"metadata": meta("check"), "spec": {}, "status": {}},
    "workloads": {"metadata": meta("quota"), "spec": {}, "status": {}},
}
"""An object of every watched kind."""


def with_deep_fields(plural: str) -> dict[str, Any]:
    body = POISON[plural]
    return {**body, "metadata": {**body["metadata"], "managedFields": [{"fieldsV1": "DEEP"}]}}


def record_errors(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return a list to which the fields of each logged error are added."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(intake._log, "error", lambda event, **fields: lines.append({"event": event, **fields}))
    return lines


def event_of(plural: str, content: str, what: str = "ADDED") -> Any:
    """Return a reduced event, or None if it is skipped."""
    line = reduce_event(plural, f'{{"type":"{what}","object":{content}}}'.encode())
    return json.loads(line) if line else None


def page_of(plural: str, *items: str, metadata_last: bool = False) -> list[Any]:
    """Return the reduced objects of a page. A page of custom resources has its keys in alphabetical order."""
    listed, meta = f'"items":[{",".join(items)}]', '"metadata":{"resourceVersion":"9","continue":"more"}'
    page = f'"apiVersion":"v1",{listed},"kind":"List",{meta}' if metadata_last else f'"kind":"List",{meta},{listed}'
    return list(asyncio.run(reduce_page(plural, f"{{{page}}}".encode()))["items"])


@pytest.mark.parametrize("plural", POISON)
def test_an_object_with_deep_managed_fields_is_seen_in_watches_and_listings(plural: str) -> None:
    """managedFields is the only field of arbitrary JSON, and the operator does not read it."""
    poison, plain = text(with_deep_fields(plural)), text(POISON[plural])
    assert event_of(plural, poison)["object"]["view"] == event_of(plural, plain)["object"]["view"]
    names = [item["metadata"]["name"] for item in page_of(plural, plain, poison, plain)]
    assert names == [POISON[plural]["metadata"]["name"]] * 3


@pytest.mark.parametrize("plural", POISON)
@pytest.mark.parametrize("part", ["spec", "status"])
def test_a_deep_field_that_nobody_reads_hides_nothing(plural: str, part: str) -> None:
    deep = text({**POISON[plural], part: {"unknown": "DEEP"}})
    assert len(page_of(plural, deep, text(POISON[plural]))) == 2
    assert event_of(plural, deep)["object"]["metadata"]["uid"] == POISON[plural]["metadata"]["uid"]


@pytest.mark.parametrize("plural", POISON)
def test_a_large_deep_object_is_skipped_and_named(plural: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning takes time, which a tenant must not cause for everybody."""
    log = record_errors(monkeypatch)
    poison = text(with_deep_fields(plural)).replace(DEEP, DEEPER)
    assert event_of(plural, poison) is None
    with pytest.raises(msgspec.DecodeError):  # the page is then requested with fewer objects
        page_of(plural, text(POISON[plural]), poison)
    assert [line["name"] for line in log] == [POISON[plural]["metadata"]["name"]]


@pytest.mark.parametrize("metadata_last", [True, False])
def test_a_page_without_its_only_object_leads_to_the_next_page(metadata_last: bool) -> None:
    hostile = (
        '{"metadata":{"name":"bad","annotations":{"a":"],\\"kind\\":\\"X\\",\\"metadata\\":{}}"}},"spec":'
        + DEEPER
        + "}"
    )
    listed, meta = f'"items":[{hostile}]', '"metadata":{"resourceVersion":"9","continue":"more"}'
    page = f'"apiVersion":"v1",{listed},"kind":"List",{meta}' if metadata_last else f'"kind":"List",{meta},{listed}'
    reduced = skip_object("pods", f"{{{page}}}".encode())
    assert (reduced["items"], reduced["metadata"]) == ([], {"resourceVersion": "9", "continue": "more"})


@pytest.mark.parametrize(
    "broken",
    [
        {"metadata": {"name": "bad", "namespace": "team-a", "uid": 5}},
        {"metadata": "none"},
        {"metadata": meta("bad"), "status": [1]},
        {"metadata": {name: value for name, value in meta("bad").items() if name != "uid"}},
        {"metadata": meta("bad"), "status": {"containerStatuses": "none"}},
        {"metadata": meta("bad", creationTimestamp="yesterday")},
        {"metadata": meta("bad"), "status": {"phase": {"a": 1}}},
        {"metadata": meta("bad"), "status": {"conditions": [7]}},
    ],
)
def test_an_object_that_cannot_be_read_is_named_and_skipped(
    broken: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, before = record_errors(monkeypatch), SKIPPED_OBJECTS.labels(kind="pods")._value.get()
    assert len(page_of("pods", text(POISON["pods"]), text(broken), text(POISON["pods"]))) == 2
    assert reduce_event("pods", json.dumps({"type": "MODIFIED", "object": broken}).encode()) == b""
    assert SKIPPED_OBJECTS.labels(kind="pods")._value.get() == before + 2
    place = {"name": "bad", "namespace": "team-a"} if "team-a" in text(broken) else {}
    assert [{name: line[name] for name in ("name", "namespace") if name in line} for line in log] == [place] * 2


def test_the_deletion_of_an_object_that_cannot_be_read_is_still_seen() -> None:
    broken = {"metadata": meta("bad"), "status": {"containerStatuses": "none"}}
    event = json.loads(reduce_event("pods", json.dumps({"type": "DELETED", "object": broken}).encode()))
    assert (event["type"], event["object"]["metadata"]["uid"]) == ("DELETED", "uid-bad")


def test_kopf_gets_only_what_it_and_the_handlers_read() -> None:
    owner = {"kind": "PromptInternJob", "name": "small", "uid": "job-1", "controller": True}
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta("pod", annotations={"a": "x" * 100_000}, ownerReferences=[owner, {"kind": "X", "uid": "x"}]),
        "spec": {"nodeName": "node-1", "containers": [{"name": "a", "env": [{"name": "B", "value": "x" * 100_000}]}]},
        "status": {"phase": "Running", "message": "x" * 100_000, "containerStatuses": [{"name": "a"}] * 1000},
    }
    event = reduce_event("pods", json.dumps({"type": "ADDED", "object": body}).encode())
    assert len(event) < 60_000
    reduced = json.loads(event)["object"]
    assert set(reduced["metadata"]["labels"]) == {"promptintern.dev/job", "promptintern.dev/job-uid"}
    assert reduced["metadata"]["ownerReferences"] == [owner]
    view = msgspec.convert(reduced["view"], PodView)
    assert (view.node, view.phase, len(view.message or ""), len(view.containers)) == ("node-1", "Running", 24_000, 64)


def test_a_job_is_kept_whole_unless_it_is_large() -> None:
    small, large = job_body({"phase": "Training"}), job_body({})
    large["spec"]["prompt"]["template"] += "".join(chr(0x4E00 + number * 7 % 20_000) for number in range(60_000))
    for body, is_kept in ((small, True), (large, False)):
        event = json.loads(reduce_event("promptinternjobs", json.dumps({"type": "ADDED", "object": body}).encode()))
        view = msgspec.convert(event["object"]["view"], JobView)
        assert (view.body() or {}).get("spec") == (body["spec"] if is_kept else None)
        assert (view.uid, view.version) == (body["metadata"]["uid"], body["metadata"]["resourceVersion"])
        assert len(json.dumps(event)) < 30_000


@pytest.mark.parametrize("bad", ["2025-01-01T00:00:00+99:99", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "", None])
def test_a_bad_time_of_somebody_else_hides_nothing(bad: Any) -> None:
    ended = {"name": "ray-head", "state": {"terminated": {"exitCode": 1, "finishedAt": bad}}}
    times = {"deletionTimestamp": bad} if isinstance(bad, str) else {}
    pod = {"metadata": meta("pod", **times), "status": {"phase": "Failed", "containerStatuses": [ended]}}
    ray = {"metadata": meta("ray"), "status": {"jobDeploymentStatus": "Failed", "endTime": bad}}
    for plural, body, kind in (("pods", pod, PodView), ("rayjobs", ray, RayJobView)):
        event = json.loads(reduce_event(plural, json.dumps({"type": "ADDED", "object": body}).encode()))
        assert msgspec.convert(event["object"]["view"], kind).name == body["metadata"]["name"]


@pytest.mark.parametrize("grace", [0, 30, 10**15, -5])
def test_any_grace_period_can_be_read(grace: int) -> None:
    body = {"metadata": meta("pod", deletionTimestamp=CREATED, deletionGracePeriodSeconds=grace)}
    assert event_of("pods", text(body))["object"]["view"]["deleting"]


def test_other_owners_do_not_hide_the_controller() -> None:
    owners = [{"kind": "RayJob", "name": str(number), "uid": str(number)} for number in range(5)]
    controller = {"kind": "PromptInternJob", "name": "small", "uid": "job-1", "controller": True}
    body = {"metadata": meta("ray", ownerReferences=[*owners, controller])}
    assert controller in event_of("rayjobs", text(body))["object"]["metadata"]["ownerReferences"]


def test_the_end_of_a_long_log_still_tells_why_an_attempt_failed() -> None:
    """Ray reports the last 20,000 characters of the driver's log, and the error is at their end."""
    log = "Job failed\n" + "step 82 loss 1.0\n" * 1100 + "ray.exceptions.OutOfMemoryError: Task was killed\n"
    status = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": log}
    view = msgspec.convert(
        event_of("rayjobs", text({"metadata": meta("ray"), "status": status}))["object"]["view"], RayJobView
    )
    ending = ending_of(view, (), None)
    assert ending is not None
    assert ending.reason == "OutOfMemory"


def test_many_long_texts_are_cut_further() -> None:
    waiting = [{"name": str(n), "state": {"waiting": {"message": "x" * 20_000}}} for n in range(64)]
    event = event_of("pods", text({"metadata": meta("pod"), "status": {"containerStatuses": waiting}}))
    assert len(json.dumps(event)) < 100_000


def test_every_error_of_a_watch_makes_kopf_list_again() -> None:
    """Kopf ends at any error except 410."""
    for code in (410, 429, 500):
        line = json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "etcd"}}).encode()
        assert json.loads(reduce_event("pods", line)) == {"type": "ERROR", "object": {"kind": "Status", "code": 410}}


def test_bookmarks_keep_their_version() -> None:
    line = {
        "type": "BOOKMARK",
        "object": {"kind": "Pod", "metadata": {"resourceVersion": "5", "creationTimestamp": None}},
    }
    assert json.loads(reduce_event("pods", json.dumps(line).encode()))["object"]["metadata"] == {"resourceVersion": "5"}


def lines_of(chunks: list[bytes]) -> list[bytes]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def collect() -> list[bytes]:
        return [line async for line in reduce_stream("pods", stream())]

    return asyncio.run(collect())


@given(st.lists(st.integers(1, 400), max_size=20))
def test_a_stream_may_be_cut_anywhere(sizes: list[int]) -> None:
    events = [{"type": "ADDED", "object": {**POISON["pods"], "metadata": meta(f"pod-{n}")}} for n in range(4)]
    whole = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    chunks, rest = [], whole
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    assert lines_of([*chunks, rest]) == lines_of([whole])
    assert [json.loads(line)["object"]["metadata"]["name"] for line in lines_of([whole])] == [
        f"pod-{n}" for n in range(4)
    ]


def test_a_line_that_is_too_large_or_no_json_is_skipped() -> None:
    good = json.dumps({"type": "ADDED", "object": POISON["pods"]}).encode()
    huge = [
        b'{"type":"ADDED","object":{"metadata":{"name":"huge"},"spec":"',
        *[b"x" * 2**20] * (_LINE_BYTES // 2**20 + 1),
    ]
    assert len(lines_of([*huge, b'"}}\n', good, b"\n", b"no json\n", b"\n", good, b"\n"])) == 2


# Parsing


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_pruning_leaves_shallow_json_as_it_is(value: Any) -> None:
    content = json.dumps(value).encode()
    assert prune(content) == content


@pytest.mark.parametrize("depth", [10, 49, 51, 400, 5000])
def test_only_what_is_deep_is_left_out(depth: int) -> None:
    content = '{"before":1,"deep":' + '{"a":[' * depth + '"leaf"' + "]}" * depth + ',"after":[{"b":"]}"}]}'
    value = json.loads(prune(content.encode()))
    assert (value["before"], value["after"]) == (1, [{"b": "]}"}])
    assert (TOO_DEEP in json.dumps(value)) == (depth > 49)


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"a":[', "[" * 3 + '{"b":'])
def test_no_depth_makes_parsing_fail(opening: str) -> None:
    """The text is closed, cut off, or closed too often: it is parsed or refused, but no RecursionError escapes."""
    small = opening * 3_000
    ends = "".join("]" if letter == "[" else "}" for letter in reversed(small) if letter in "[{")
    assert TOO_DEEP in json.dumps(parse((small + "1" + ends).encode()))
    deep = opening * 100_000
    closing = "".join("]" if letter == "[" else "}" for letter in reversed(deep) if letter in "[{")
    with pytest.raises(msgspec.DecodeError):
        parse((deep + "1" + closing).encode())
    for content in (deep, deep + "1" + closing[:-1], deep + "1" + closing + "}"):
        with pytest.raises(msgspec.DecodeError):
            parse(content.encode())


def test_pruning_takes_linear_time() -> None:
    """A text that ends within a string was scanned again from each quotation mark."""
    started = time.process_time()
    prune(b'"' + b'\\"' * 1_000_000)
    assert time.process_time() - started < 5
