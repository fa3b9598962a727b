"""Container images without a registry: a base from Debian's packages, the project's Dockerfiles by buildah."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.cluster import build_settings, oci, packages, programs
from tests.cluster.errors import CommandFailed
from tests.cluster.locks import locked
from tests.cluster.places import cache, search_path
from tests.cluster.programs import Say

BASE = "localhost/python-base"
_BASE_PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv", "python-is-python3")
_ROOM = 30 * 10**9
"""Bytes that must be free before a build: an image of CUDA libraries is written two or three times."""
_IGNORED = {".git", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "runs"}


def build_image(
    dockerfile: Path,
    context: Path,
    tag: str,
    build_args: Mapping[str, str] | None = None,
    *,
    sources: Sequence[Path],
    say: Say = programs.say,
) -> Path:
    """The image's layout (a folder), built unless it was built from the same ``sources`` before.

    Args:
        sources: files and folders whose content decides; name all that the Dockerfile copies.

    Raises:
        CommandFailed: with the build's last lines.
    """
    build_args = dict(build_args or {})
    build_args.setdefault("BASE", BASE)
    if build_args["BASE"] == BASE:
        build_base(say)
    key = _digest(
        [*sorted(f"{name}={value}" for name, value in build_args.items()), _base_key()], [dockerfile, *sources], context
    )
    layout = _layout(tag)
    with _one_build():
        if _key_of(layout) == key:
            return layout
        _make_room(say)
        began = time.monotonic()
        say(f"building the image {tag} ...")
        arguments = [f"--build-arg={name}={value}" for name, value in build_args.items()]
        with build_settings.volumes() as volumes:
            arguments += [f"--volume={volume}" for volume in volumes]
            _buildah(
                *("bud", "--layers", "--force-rm", "--network=host", "--pull-never", *arguments),
                f"--signature-policy={_policy()}",
                *(f"--file={dockerfile}", f"--tag={tag}", str(context)),
            )
        _export(tag, layout, key)
        say(f"built the image {tag} in {time.monotonic() - began:.0f} s: {oci.size(layout) / 1e9:.2f} GB")
    return layout


def build_base(say: Say = programs.say) -> None:
    """A Debian with Python, in the place of ``python:3.12-slim``: ``python`` and ``pip`` work as they do there."""
    packages.install(packages.IMAGES, say)
    marker = _storage() / "base-key"
    with _one_build():
        if marker.exists() and marker.read_text() == _base_key():
            return
        began = time.monotonic()
        say(f"building the image {BASE} ...")
        with tempfile.TemporaryDirectory(dir=_storage()) as folder:
            root = Path(folder) / "root"
            include = f"--include={','.join(_BASE_PACKAGES)}"
            _run(["debootstrap", "--variant=minbase", include, _suite(), str(root)])
            # It asks users of Debian not to mix pip's packages with apt's. Nobody uses apt's here.
            for guard in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
                guard.unlink()
            for leftover in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
                shutil.rmtree(root / leftover, ignore_errors=True)
            for needed in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
                (root / needed).mkdir(parents=True)
            archive = Path(folder) / "root.tar"
            _run(["tar", "--create", f"--file={archive}", f"--directory={root}", "--numeric-owner", "."])
            dockerfile = Path(folder) / "Dockerfile"
            dockerfile.write_text('FROM scratch\nADD root.tar /\nENV LANG=C.UTF-8\nCMD ["python3"]\n')
            _buildah("bud", f"--signature-policy={_policy()}", f"--file={dockerfile}", f"--tag={BASE}", folder)
        marker.write_text(_base_key())
        say(f"built the image {BASE} in {time.monotonic() - began:.0f} s")


def build_static_image(tag: str, program: str, entrypoint: str) -> Path:
    """The layout of an image of one program of ours and nothing else."""
    path = programs.program(program)
    layout = _layout(tag)
    key = _digest([entrypoint], [path], path.parent)
    with locked(layout.with_suffix(".lock")):
        if _key_of(layout) != key:
            shutil.rmtree(layout, ignore_errors=True)
            oci.write_static_image(layout, {entrypoint: path}, [entrypoint])
            (layout / "key").write_text(key)
    return layout


def _export(tag: str, layout: Path, key: str) -> None:
    """Write the image as a layout; layers that it has already are skipped, and those of older images deleted."""
    (layout / "key").unlink(missing_ok=True)
    layout.mkdir(parents=True, exist_ok=True)
    (layout / "index.json").unlink(missing_ok=True)
    # Not by buildah: it would compress every layer for a layout, each time.
    source = f"containers-storage:[overlay@{_storage() / 'root'}+{_storage() / 'run'}]{tag}"
    skip_known = ["--quiet", "--dest-oci-accept-uncompressed-layers"]
    _run(["skopeo", f"--policy={_policy()}", "copy", *skip_known, source, f"oci:{layout}:latest"])
    oci.prune(layout)
    (layout / "key").write_text(key)
    _buildah("rmi", "--prune", check=False)


def _one_build() -> contextlib.AbstractContextManager[None]:
    """What one build leaves over is deleted at its end, and must not be another's that goes on."""
    return locked(_storage() / "lock")


def _make_room(say: Say) -> None:
    """Where the disk is nearly full, a build begins without the layers of builds before."""
    free = shutil.disk_usage(_storage()).free
    if free > _ROOM:
        return
    say(f"{free / 1e9:.0f} GB are free: deleting the layers of earlier builds")
    for name in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        if not name.startswith((BASE, "<none>")):
            _buildah("rmi", "--force", name, check=False)
    _buildah("rmi", "--prune", check=False)


def _buildah(*arguments: str, check: bool = True) -> str:
    storage = _storage()
    own = ["--root", str(storage / "root"), "--runroot", str(storage / "run"), "--storage-driver", "overlay"]
    settings = {"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(storage), "CONTAINERS_STORAGE_CONF": os.devnull}
    return _run(["buildah", *own, *arguments], env=settings, check=check)


def _policy() -> Path:
    """Nothing is pulled, so there is nothing to verify."""
    file = _storage() / "policy.json"
    if not file.exists():
        file.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return file


def _run(argv: list[str], env: Mapping[str, str] | None = None, *, check: bool = True) -> str:
    environment = {**os.environ, "PATH": search_path(), **(env or {})}
    done = subprocess.run(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stdout)
    return done.stdout


def _storage() -> Path:
    folder = cache() / "buildah"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _layout(tag: str) -> Path:
    folder = cache() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / tag.replace("/", "_").replace(":", "_").replace(".", "_")


def _key_of(layout: Path) -> str | None:
    file = layout / "key"
    return file.read_text() if file.exists() else None


def _base_key() -> str:
    return f"{_suite()} {' '.join(_BASE_PACKAGES)}"


def _suite() -> str:
    """This machine's Debian, or the stable one of the project's tests."""
    release = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    facts = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    return facts.get("VERSION_CODENAME", "bookworm") if facts.get("ID") == "debian" else "bookworm"


def _digest(words: Iterable[str], paths: Iterable[Path], root: Path) -> str:
    """Of the words, and of the files' names below ``root`` and contents: the same in every clone."""
    digest = hashlib.sha256("\n".join(words).encode())
    for path in paths:
        for file in sorted(_files(path)):
            name = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
            digest.update(f"\n{name}\n".encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = (file for file in path.rglob("*") if not _IGNORED.intersection(file.relative_to(path).parts))
    return [file for file in found if file.is_file()]
