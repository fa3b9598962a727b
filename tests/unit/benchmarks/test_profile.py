"""The kind that the profile gives an operation, and the additions and multiplications that it counts."""

import pytest

from benchmarks.training.profile import OWN, PRODUCTS, SHARED, _kind

FORWARD = "aten::_scaled_dot_product_flash_attention_for_cpu"
QUERIES, KEYS = [1, 8, 100, 32], [1, 8, 40, 32]


@pytest.mark.parametrize(
    ("key", "shapes", "kind", "operations"),
    [
        ("aten::mm", [[10, 20], [20, 30]], PRODUCTS, 2 * 10 * 20 * 30),
        ("aten::mm", [[10, 20], [20, 30], [10, 30]], PRODUCTS, 2 * 10 * 20 * 30),
        ("aten::addmm_", [[10, 30], [10, 20], [20, 30], [], []], PRODUCTS, 2 * 10 * 20 * 30),
        ("aten::bmm", [[4, 10, 20], [4, 20, 30]], PRODUCTS, 4 * 2 * 10 * 20 * 30),
        (FORWARD, [QUERIES, KEYS, KEYS, [], []], SHARED, 4 * 8 * 100 * 40 * 32),
        (f"{FORWARD}_backward", [QUERIES, QUERIES, KEYS, KEYS], SHARED, 10 * 8 * 100 * 40 * 32),
        (FORWARD, [QUERIES, QUERIES, QUERIES], OWN, 2 * 8 * 100 * 100 * 32),
    ],
)
def test_operations_are_counted(key: str, shapes: list[list[int]], kind: str, operations: int) -> None:
    assert _kind(key, shapes) == (kind, operations)


def test_other_operations_have_no_kind() -> None:
    assert _kind("aten::mul", [[10, 20], [10, 20]]) is None
