"""Container images without a registry: buildah builds the project's Dockerfiles on a base of Debian packages."""

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
from tests.cluster.paths import cache, search_path
from tests.cluster.programs import Echo

BASE = "localhost/python-base"
_BASE_PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv", "python-is-python3")
_ROOM = 30 * 10**9
"""Bytes that must be free before a build, which writes an image with CUDA libraries two or three times."""
_IGNORED = {".git", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "runs"}


def build_image(
    dockerfile: Path,
    context: Path,
    tag: str,
    build_args: Mapping[str, str] | None = None,
    *,
    sources: Sequence[Path],
    echo: Echo = programs.echo,
) -> Path:
    """Build an image, unless it was built from the same ``sources`` before, and return its layout (a folder).

    Args:
        sources: Files and folders whose contents identify the build: everything that the Dockerfile copies.

    Raises:
        CommandFailed: if the build fails; the message ends with the last lines of its output.
    """
    build_args = dict(build_args or {})
    build_args.setdefault("BASE", BASE)
    if build_args["BASE"] == BASE:
        build_base(echo)
    key = _digest(
        [*sorted(f"{name}={value}" for name, value in build_args.items()), _base_key()], [dockerfile, *sources], context
    )
    layout = _layout(tag)
    with _build_lock():
        if _key_of(layout) == key:
            return layout
        _free_disk_space(echo)
        began = time.monotonic()
        echo(f"building the image {tag} ...")
        arguments = [f"--build-arg={name}={value}" for name, value in build_args.items()]
        with build_settings.volumes() as volumes:
            arguments += [f"--volume={volume}" for volume in volumes]
            _buildah(
                *("bud", "--layers", "--force-rm", "--network=host", "--pull-never", *arguments),
                f"--signature-policy={_policy()}",
                *(f"--file={dockerfile}", f"--tag={tag}", str(context)),
            )
        _export(tag, layout, key)
        echo(f"built the image {tag} in {time.monotonic() - began:.0f} s: {oci.size(layout) / 1e9:.2f} GB")
    return layout


def build_base(echo: Echo = programs.echo) -> None:
    """Build a Debian image in place of ``python:3.12-slim``, in which ``python`` and ``pip`` work as they do there."""
    packages.install(packages.IMAGES, echo)
    marker = _storage() / "base-key"
    with _build_lock():
        if marker.exists() and marker.read_text() == _base_key():
            return
        began = time.monotonic()
        echo(f"building the image {BASE} ...")
        with tempfile.TemporaryDirectory(dir=_storage()) as folder:
            root = Path(folder) / "root"
            include = f"--include={','.join(_BASE_PACKAGES)}"
            _run(["debootstrap", "--variant=minbase", include, _suite(), str(root)])
            # This file keeps pip from installing beside apt's packages, of which there are none here.
            for guard in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
                guard.unlink()
            for unused in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
                shutil.rmtree(root / unused, ignore_errors=True)
            for required in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
                (root / required).mkdir(parents=True)
            archive = Path(folder) / "root.tar"
            _run(["tar", "--create", f"--file={archive}", f"--directory={root}", "--numeric-owner", "."])
            dockerfile = Path(folder) / "Dockerfile"
            dockerfile.write_text('FROM scratch\nADD root.tar /\nENV LANG=C.UTF-8\nCMD ["python3"]\n')
            _buildah("bud", f"--signature-policy={_policy()}", f"--file={dockerfile}", f"--tag={BASE}", folder)
        marker.write_text(_base_key())
        echo(f"built the image {BASE} in {time.monotonic() - began:.0f} s")


def build_static_image(tag: str, program: str, entrypoint: str) -> Path:
    """Build an image that contains one statically linked program, and return its layout."""
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
    """Write the image as a layout, which keeps the layers that it has and drops those of older images."""
    (layout / "key").unlink(missing_ok=True)
    layout.mkdir(parents=True, exist_ok=True)
    (layout / "index.json").unlink(missing_ok=True)
    # skopeo, because buildah would compress every layer each time.
    source = f"containers-storage:[overlay@{_storage() / 'root'}+{_storage() / 'run'}]{tag}"
    options = ["--quiet", "--dest-oci-accept-uncompressed-layers"]
    _run(["skopeo", f"--policy={_policy()}", "copy", *options, source, f"oci:{layout}:latest"])
    oci.prune(layout)
    (layout / "key").write_text(key)
    _buildah("rmi", "--prune", check=False)


def _build_lock() -> contextlib.AbstractContextManager[None]:
    """A lock for one build at a time, since the end of a build deletes what an unfinished one would still need."""
    return locked(_storage() / "lock")


def _free_disk_space(echo: Echo) -> None:
    """Delete the layers of earlier builds if the disk is nearly full."""
    free = shutil.disk_usage(_storage()).free
    if free > _ROOM:
        return
    echo(f"only {free / 1e9:.0f} GB are free: deleting the layers of earlier builds")
    for name in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        if not name.startswith((BASE, "<none>")):
            _buildah("rmi", "--force", name, check=False)
    _buildah("rmi", "--prune", check=False)


def _buildah(*arguments: str, check: bool = True) -> str:
    storage = _storage()
    options = ["--root", str(storage / "root"), "--runroot", str(storage / "run"), "--storage-driver", "overlay"]
    settings = {"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(storage), "CONTAINERS_STORAGE_CONF": os.devnull}
    return _run(["buildah", *options, *arguments], env=settings, check=check)


def _policy() -> Path:
    """A signature policy that verifies nothing, because nothing is pulled."""
    file = _storage() / "policy.json"
    if not file.exists():
        file.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return file


def _run(argv: list[str], env: Mapping[str, str] | None = None, *, check: bool = True) -> str:
    environment = {**os.environ, "PATH": search_path(), **(env or {})}
    completed = subprocess.run(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if check and completed.returncode != 0:
        raise CommandFailed(argv, completed.returncode, completed.stdout)
    return completed.stdout


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
    """The code name of this machine's Debian release, or of the release that the project is tested on."""
    release = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    facts = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    return facts.get("VERSION_CODENAME", "bookworm") if facts.get("ID") == "debian" else "bookworm"


def _digest(words: Iterable[str], paths: Iterable[Path], root: Path) -> str:
    """A digest of words and of files' contents and names below ``root``, the same in every clone."""
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
    paths = (file for file in path.rglob("*") if not _IGNORED.intersection(file.relative_to(path).parts))
    return [file for file in paths if file.is_file()]
