"""The allow list of images."""

from typing import Any

import pytest

from tests.integration.policies.conftest import MERGE, World, job, may, person

DIGEST = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def author(world: World) -> str:
    """A user who may create jobs."""
    person(world, "image-author", [may("create", "pods")])
    world.server.wait_for(
        lambda: "-images" in world.create("image-author", running("elsewhere.example/a")).message,
        what="the policy of the images",
    )
    return "image-author"


def running(image: str | None, name: str = "new", **spec: Any) -> dict[str, Any]:
    """Return a job with an image."""
    return job(name, compute=None if image is None else {"image": image}, **spec)


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        (None, True),
        ("registry.example/team", True),
        ("registry.example/team/trainer", True),
        ("registry.example/team/trainer:1.0", True),
        (f"registry.example/team/trainer@{DIGEST}", True),
        ("registry.example/team:1.0", True),
        (f"registry.example/team@{DIGEST}", True),
        (f"registry.example/team:1.0@{DIGEST}", True),
        ("registry.example:5000/exact/trainer:1.0", True),
        (f"registry.example:5000/exact/trainer:1.0@{DIGEST}", True),
        ("hub.example/any/thing:1", True),
        ("registry.example/team-evil", False),
        ("registry.example/team-evil/trainer:1.0", False),
        ("registry.example/teamevil", False),
        ("registry.example/team.evil/trainer", False),
        ("registry.example/team_evil", False),
        ("registry.example/other/team", False),
        ("evil.example/registry.example/team", False),
        ("evil.example/registry.example/team/trainer", False),
        ("registry.example.evil.example/team", False),
        ("registry.example", False),
        ("REGISTRY.example/team", False),
        (" registry.example/team", False),
        ("hub.example.evil.example/any", False),
        ("hub.example:8443/any/thing", False),  # another registry, on the same host
        ("hub.example@evil.example/any", False),
        ("registry.example:5000/exact/trainer:1.0-evil", False),
        ("registry.example:5000/exact/trainer:1.1", False),
        ("registry.example:5000/exact/trainer", False),
        ("registry.example:5000/team", False),
        ("promptintern/trainer:0.1.0", False),
    ],
)
def test_creating(world: World, author: str, image: str | None, allowed: bool) -> None:
    answer = world.create(author, running(image))
    if allowed:
        assert answer.status == 201, answer
    else:
        assert answer.status == 403, answer
        assert f"spec.compute.image: {image} is not allowed in this cluster; allowed are" in answer.message, answer


def test_an_image_cannot_be_changed_to_another(world: World, author: str) -> None:
    assert world.create(author, running("hub.example/any", "changing"), keep=True).status == 201
    for image, status in (("hub.example/other", 200), ("elsewhere.example/a", 403)):
        patch = {"spec": {"compute": {"image": image}}}
        answer = world.ask(author, "PATCH", world.jobs("changing") + "?dryRun=All", patch, MERGE)
        assert answer.status == status, answer


def test_a_job_of_an_older_list_can_be_suspended_and_labelled_but_not_resumed_or_tried_again(
    world: World, author: str
) -> None:
    """The image was admitted before it was removed from the list."""
    policy = f"promptintern-{world.release_namespace}-images"
    binding = world.server.get("validatingadmissionpolicybinding", policy)
    assert binding is not None
    world.server.delete("validatingadmissionpolicybinding", policy)
    try:
        world.server.wait_for(
            lambda: world.create(author, running("elsewhere.example/a", "older"), keep=True).status == 201,
            what="the policy's end",
        )
    finally:
        world.server.apply(
            {name: binding[name] for name in ("apiVersion", "kind", "spec")} | {"metadata": {"name": policy}}
        )
    world.server.wait_for(lambda: world.create(author, running("elsewhere.example/a")).status == 403)
    assert world.merge(author, "older", {"metadata": {"labels": {"team": "a"}}}).status == 200
    retry = world.merge(author, "older", {"metadata": {"annotations": {"promptintern.dev/retry": "now"}}})
    assert retry.status == 403 and "-images" in retry.message, retry
    assert world.merge(author, "older", {"metadata": {"annotations": {"note": "x"}}}).status == 200
    assert world.merge(author, "older", {"spec": {"suspend": True}}).status == 200
    answer = world.merge(author, "older", {"spec": {"suspend": False}})
    assert answer.status == 403 and "-images" in answer.message, answer
