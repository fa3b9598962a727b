"""Image layouts, and archives without the blobs that the reader has."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.cluster import oci


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    program = tmp_path / "program"
    program.write_bytes(b"#!" * 1000)
    oci.write_static_image(tmp_path / "layout", {"/bin/program": program}, ["/bin/program"])
    return tmp_path / "layout"


def names(layout: Path, present: set[str]) -> list[str]:
    out = io.BytesIO()
    oci.write_archive(layout, "localhost/x:1", present, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        index = tar.extractfile("index.json")
        assert index is not None
        (entry,) = json.loads(index.read())["manifests"]
        assert entry["annotations"] == {"io.containerd.image.name": "localhost/x:1"}
        return [member.name for member in tar]


def test_the_image_contains_the_program_and_its_entrypoint(layout: Path) -> None:
    manifest, config, layer = oci.digests(layout)
    assert manifest == oci.manifest_entry(layout)["digest"]
    blobs = layout / "blobs" / "sha256"
    image = json.loads((blobs / config.removeprefix("sha256:")).read_text())
    assert image["config"]["Entrypoint"] == ["/bin/program"]
    assert image["rootfs"]["diff_ids"] == [layer]
    with tarfile.open(blobs / layer.removeprefix("sha256:")) as tar:
        assert tar.getmember("bin/program").mode == 0o755


def test_an_archive_contains_each_blob_once(layout: Path) -> None:
    assert sorted(names(layout, set())) == sorted(
        [
            "oci-layout",
            "index.json",
            *(f"blobs/sha256/{digest.removeprefix('sha256:')}" for digest in oci.digests(layout)),
        ]
    )


def test_present_blobs_are_left_out_except_for_the_manifest(layout: Path) -> None:
    manifest = oci.digests(layout)[0].removeprefix("sha256:")
    assert names(layout, set(oci.digests(layout))) == ["oci-layout", "index.json", f"blobs/sha256/{manifest}"]


def test_blobs_that_another_folder_has_are_stored_once(layout: Path, tmp_path: Path) -> None:
    shutil.copytree(layout, tmp_path / "other")
    before = oci.size(layout)
    oci.share_blobs(layout, tmp_path / "other")
    oci.share_blobs(layout, tmp_path / "other")
    for digest in oci.digests(layout):
        name = digest.removeprefix("sha256:")
        assert (layout / "blobs/sha256" / name).samefile(tmp_path / "other/blobs/sha256" / name)
    assert oci.size(layout) == before


def test_blobs_of_previous_images_are_pruned(layout: Path) -> None:
    (layout / "blobs" / "sha256" / "0000").write_text("old")
    oci.prune(layout)
    assert len(list((layout / "blobs" / "sha256").iterdir())) == 3
