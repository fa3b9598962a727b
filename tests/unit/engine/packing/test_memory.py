"""How large a pack may be: powers of two between limits."""

import pytest
from promptintern.engine.packing.layout import PackLayout
from promptintern.engine.packing.memory import round_down, tokens_that_fit

from tests.tiny import VOCABULARY, tiny_model
from tests.unit.engine.adapters import CPU, with_random_lora


@pytest.mark.parametrize(
    ("tokens", "size"), [(0, 2048), (2047, 2048), (4095.9, 2048), (4096, 4096), (32767, 16384), (10**9, 32768)]
)
def test_a_little_more_or_less_memory_makes_the_same_packs(tokens: float, size: int) -> None:
    assert round_down(tokens) == size


def test_on_a_cpu_nothing_is_measured() -> None:
    adapter = with_random_lora(tiny_model("llama"))
    assert tokens_that_fit(adapter, PackLayout.PREFIX_TREE, vocab_size=VOCABULARY, device=CPU) is None
