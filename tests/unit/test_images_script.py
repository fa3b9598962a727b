"""tools/images.sh with programs that stand in for Docker and registry clients, and record how they were called."""

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DIGEST, PUSHED = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
BASE = "docker.io/library/python:3.12-slim"
TOOLS = ("sh", "sed", "grep", "wc", "mv", "cat", "dirname", "basename")


@dataclass
class Repository:
    """A copy of the files that the script reads, with a PATH that has only stand-ins and basic tools."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "bin").mkdir()
        for name in TOOLS:
            (self.folder / "bin" / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is missing"))
        for name in ("tools/images.sh", "images.lock", "charts/promptintern/Chart.yaml"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)

    def program(self, name: str, script: str) -> None:
        """Put a shell script on PATH, which first writes its arguments to the file ``calls``."""
        file = self.folder / "bin" / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.folder}/calls"\n{script}\n')
        file.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "tools/images.sh", *arguments],
            env={"PATH": str(self.folder / "bin"), **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def lock(self) -> str:
        return (self.folder / "images.lock").read_text()

    @lock.setter
    def lock(self, text: str) -> None:
        (self.folder / "images.lock").write_text(text)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_the_check_fails_without_a_digest(repository: Repository) -> None:
    repository.lock = f"# a comment\n{BASE}\n"
    checked = repository.run("check")
    assert checked.returncode == 1
    assert f"images.lock has no digest for {BASE}; run tools/images.sh resolve" in checked.stderr


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:abc", f"sha256:{'g' * 64}", f"{DIGEST}0", f"md5:{'a' * 32}"])
def test_the_check_fails_with_something_else_than_a_digest(digest: str, repository: Repository) -> None:
    repository.lock = f"{BASE}@{digest}\n"
    checked = repository.run("check")
    assert checked.returncode == 1
    assert "is not a digest" in checked.stderr


@pytest.mark.parametrize("lock", ["", "# nothing\n", f"{BASE}@{DIGEST}\nother@{DIGEST}\n"])
def test_the_lock_names_one_base_image(lock: str, repository: Repository) -> None:
    repository.lock = lock
    checked = repository.run("check")
    assert checked.returncode == 1
    assert "names no base image" in checked.stderr or "names several base images" in checked.stderr


@pytest.mark.parametrize(
    ("client", "call"),
    [
        ("crane", f"crane digest {BASE}"),
        ("skopeo", f"skopeo inspect --format {{{{.Digest}}}} docker://{BASE}"),
        ("docker", f"docker buildx imagetools inspect --format {{{{.Manifest.Digest}}}} {BASE}"),
    ],
)
def test_resolve_records_the_digest_that_the_registry_names(client: str, call: str, repository: Repository) -> None:
    repository.lock = f"# a comment\n{BASE}@sha256:{'0' * 64}\n"
    repository.program(client, f'case "$*" in *version) ;; *) echo {DIGEST} ;; esac')
    resolved = repository.run("resolve")
    assert resolved.returncode == 0, resolved.stderr
    assert repository.calls[-1] == call
    assert repository.lock == f"# a comment\n{BASE}@{DIGEST}\n"
    assert repository.run("check").returncode == 0


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo unauthorized >&2; exit 1", f"the digest of {BASE} cannot be read"),
        ("echo latest", f"the digest of {BASE} is 'latest', which is not a SHA-256"),
        ("true", "which is not a SHA-256"),
    ],
)
def test_resolve_records_nothing_if_the_registry_does_not_answer(
    script: str, message: str, repository: Repository
) -> None:
    before = repository.lock
    repository.program("crane", script)
    resolved = repository.run("resolve")
    assert resolved.returncode == 1
    assert message in resolved.stderr
    assert repository.lock == before


def test_resolve_names_the_clients_of_which_it_needs_one(repository: Repository) -> None:
    resolved = repository.run("resolve")
    assert resolved.returncode == 1
    assert "crane, skopeo or docker buildx is needed" in resolved.stderr


def with_engine(repository: Repository, engine: str = "docker") -> None:
    repository.lock = f"{BASE}@{DIGEST}\n"
    repository.program(engine, "true")
    repository.program("crane", f"echo {PUSHED}")


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_publish_builds_on_the_locked_base_and_prints_the_charts_values(engine: str, repository: Repository) -> None:
    with_engine(repository, engine)
    published = repository.run("publish", "registry.example/team/", "1.2")
    assert published.returncode == 0, published.stderr
    assert yaml.safe_load(published.stdout) == {
        "image": {"repository": "registry.example/team/promptintern/operator", "tag": f"1.2@{PUSHED}"},
        "trainer": {"image": f"registry.example/team/promptintern/trainer:1.2@{PUSHED}"},
    }
    builds = [call for call in repository.calls if call.startswith(f"{engine} build ")]
    assert [build.split()[3] for build in builds] == ["operator/Dockerfile", "trainer/Dockerfile"]
    for build, name in zip(builds, ("operator", "trainer"), strict=True):
        assert f"--tag registry.example/team/promptintern/{name}:1.2 " in build
        assert f"--build-arg BASE={BASE}@{DIGEST} " in build
        assert f"--label org.opencontainers.image.base.digest={DIGEST}" in build
        assert "TORCH_INDEX" not in build and "--platform" not in build
        assert f"{engine} push registry.example/team/promptintern/{name}:1.2" in repository.calls


def test_the_tag_is_the_version_of_the_chart(repository: Repository) -> None:
    with_engine(repository)
    version = yaml.safe_load((ROOT / "charts/promptintern/Chart.yaml").read_text())["appVersion"]
    published = repository.run("publish", "registry.example")
    assert yaml.safe_load(published.stdout)["image"]["tag"] == f"{version}@{PUSHED}"


def test_a_trainer_without_cuda_has_a_tag_of_its_own(repository: Repository) -> None:
    with_engine(repository)
    index = "https://download.pytorch.org/whl/cpu/"
    repository.environment = {"TORCH_INDEX": index, "PLATFORM": "linux/amd64"}
    published = repository.run("publish", "registry.example", "1.2")
    assert published.returncode == 0, published.stderr
    values = yaml.safe_load(published.stdout)
    assert values["image"]["tag"] == f"1.2@{PUSHED}"
    assert values["trainer"]["image"] == f"registry.example/promptintern/trainer:1.2-cpu@{PUSHED}"
    operator, trainer = (call for call in repository.calls if call.startswith("docker build "))
    assert f"--build-arg TORCH_INDEX={index} " in trainer and "TORCH_INDEX" not in operator
    assert "--platform linux/amd64 " in operator and "--platform linux/amd64 " in trainer


def test_nothing_is_built_without_a_digest(repository: Repository) -> None:
    with_engine(repository)
    repository.lock = f"{BASE}\n"
    published = repository.run("publish", "registry.example")
    assert published.returncode == 1
    assert "has no digest" in published.stderr
    assert repository.calls == []


def test_nothing_is_printed_if_a_build_or_a_push_fails(repository: Repository) -> None:
    for step in ("build", "push"):
        with_engine(repository)
        repository.program("docker", f'[ "$1" != {step} ]')
        published = repository.run("publish", "registry.example", "1.2")
        assert published.returncode == 1
        was = {"build": "was not built", "push": "was not pushed; is this machine logged in to the registry?"}[step]
        assert f"registry.example/promptintern/operator:1.2 {was}" in published.stderr
        assert published.stdout == ""
        assert not [call for call in repository.calls if "trainer" in call]


def test_a_docker_client_without_a_daemon_builds_nothing(repository: Repository) -> None:
    with_engine(repository)
    repository.program("docker", "exit 1")
    published = repository.run("publish", "registry.example")
    assert published.returncode == 1
    assert "neither a running Docker, nor podman, nor buildah" in published.stderr


@pytest.mark.parametrize("arguments", [(), ("publish",), ("resolve", "x"), ("other",), ("publish", "a", "b", "c")])
def test_wrong_arguments_get_the_usage(arguments: tuple[str, ...], repository: Repository) -> None:
    used = repository.run(*arguments)
    assert used.returncode == 2
    assert "tools/images.sh publish REGISTRY [TAG]" in used.stderr
