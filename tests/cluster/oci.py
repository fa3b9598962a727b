"""Image layouts as the OCI specifies them: a folder of blobs named by digest, and an index of manifests.

The image tools write layouts and containerd reads them, so a layer that both have is neither written nor read again.
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MARK = '{"imageLayoutVersion": "1.0.0"}'
_USER = 65532
"""A user other than root, which the manifests of KubeRay and Kueue require."""


def write_static_image(layout: Path, programs: Mapping[str, Path], entrypoint: Sequence[str]) -> None:
    """Write an image that contains only statically linked programs, given by their path in the image."""
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(folder)
        for path, program in programs.items():
            info = tarfile.TarInfo(path.lstrip("/"))
            info.size, info.mode = program.stat().st_size, 0o755
            with program.open("rb") as content:
                tar.addfile(info, content)
    layers = [_store(layout, layer.getvalue(), _LAYER)]
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "User": f"{_USER}:{_USER}", "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _store(layout, json.dumps(config).encode(), _CONFIG),
        "layers": layers,
    }
    entry = _store(layout, json.dumps(manifest).encode(), _MANIFEST)
    (layout / "oci-layout").write_text(_MARK)
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def manifest_entry(layout: Path) -> dict[str, Any]:
    """The index's entry for the layout's one image."""
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest: dict[str, Any] = entry
    return manifest


def digests(layout: Path) -> list[str]:
    """The digests of the image's blobs: its manifest, its configuration and its layers."""
    entry = manifest_entry(layout)
    manifest = json.loads(_blob(layout, entry["digest"]).read_text())
    return [entry["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]


def size(layout: Path) -> int:
    """The size of the image's blobs in bytes."""
    return sum(_blob(layout, digest).stat().st_size for digest in set(digests(layout)))


def prune(layout: Path) -> None:
    """Delete the blobs of previous images."""
    current = set(digests(layout))
    for blob in (layout / "blobs" / "sha256").iterdir():
        if f"sha256:{blob.name}" not in current:
            blob.unlink()


def write_archive(layout: Path, tag: str, present: set[str], out: IO[bytes]) -> None:
    """Write the image as a tar for ``ctr images import``, without the blobs in ``present``."""
    entry = manifest_entry(layout)
    entry["annotations"] = {"io.containerd.image.name": tag}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    with tarfile.open(fileobj=out, mode="w|") as tar:
        for name, content in (("oci-layout", _MARK.encode()), ("index.json", index)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for digest in dict.fromkeys(digests(layout)):
            if digest not in present or digest == entry["digest"]:
                tar.add(_blob(layout, digest), arcname=f"blobs/sha256/{digest.removeprefix('sha256:')}")


def share_blobs(layout: Path, other: Path) -> None:
    """Replace each blob that is also in ``other`` by a hard link, because one image has gigabytes."""
    for digest in digests(layout):
        mine, theirs = _blob(layout, digest), _blob(other, digest)
        if theirs.exists() and not mine.samefile(theirs) and mine.stat().st_dev == theirs.stat().st_dev:
            link = mine.with_suffix(".link")
            link.unlink(missing_ok=True)
            link.hardlink_to(theirs)
            link.replace(mine)


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _store(layout: Path, content: bytes, kind: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    _blob(layout, digest).write_bytes(content)
    return {"mediaType": kind, "digest": digest, "size": len(content)}
