"""The digest that identifies a build."""

from pathlib import Path

from tests.cluster.images import _digest, _files


def tree(root: Path) -> Path:
    (root / "code" / "__pycache__").mkdir(parents=True)
    (root / "code" / "a.py").write_text("1")
    (root / "code" / "__pycache__" / "a.pyc").write_text("compiled")
    return root


def test_the_same_tree_elsewhere_is_the_same_build(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    (two / "code" / "__pycache__" / "b.pyc").write_text("more")
    assert _digest(["x"], [one / "code"], one) == _digest(["x"], [two / "code"], two)


def test_content_names_and_words_decide(tmp_path: Path) -> None:
    one = tree(tmp_path / "one")
    before = _digest(["x"], [one / "code"], one)
    assert _digest(["y"], [one / "code"], one) != before
    (one / "code" / "a.py").rename(one / "code" / "b.py")
    assert _digest(["x"], [one / "code"], one) != before
    assert [file.name for file in _files(one / "code")] == ["b.py"]
