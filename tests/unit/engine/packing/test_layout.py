"""Every layout computes what one prompt a row does: the loss and the gradient of every LoRA parameter."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from promptintern.engine.adapter import Adapter, attach_lora
from promptintern.engine.attention.cpu import CpuKernel
from promptintern.engine.attention.prefix_tree import Prefixes
from promptintern.engine.attention.registration import rows_apart, sight_of
from promptintern.engine.fused.last_layer import attention_of, last_layer
from promptintern.engine.packing.layout import Layout, Layouts, cascade_fault, choose_layouts
from promptintern.prompt.encode import Encoded
from promptintern_api.training import Lora

from tests.tiny import ARCHITECTURES, VOCABULARY, random_model, tiny_config, tiny_model
from tests.unit.engine.adapters import CPU, gradient, with_random_lora
from tests.unit.engine.rows import random_family, random_rows

FULL_ATTENTION = [name for name in ARCHITECTURES if name != "mistral"]
"""Tiny Mistral has a sliding window of 6 tokens."""


def in_order(rows: list[Encoded]) -> list[Encoded]:
    return [rows[i] for i in Prefixes([row.prompt_ids for row in rows]).sort(range(len(rows)))]


def assert_same(
    adapter: Adapter, found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor], rel: float = 1e-5
) -> None:
    """Loss and the gradient of every LoRA matrix; one that is next to nothing beside the others' is rounding."""
    assert abs(found[0] - expected[0]) <= rel * abs(expected[0])
    norms = [expected[1][slot.start : slot.stop].norm().item() for slot in adapter.slots]
    assert min(norms) > 0  # there is something to compare
    for slot, norm in zip(adapter.slots, norms, strict=True):
        off = (found[1] - expected[1])[slot.start : slot.stop].norm().item()
        assert off <= rel * max(norm, 1e-3 * max(norms)), slot


@pytest.mark.parametrize("architecture", FULL_ATTENTION)
@pytest.mark.parametrize("layout", [Layout.CASCADE, Layout.SHARED])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_gradients_are_those_of_rows_alone(architecture: str, layout: Layout, seed: int) -> None:
    adapter = with_random_lora(tiny_model(architecture))
    rows = in_order(random_family(seed, 9))
    alone = gradient(adapter, [[row] for row in rows], Layout.ALONE)
    assert_same(adapter, gradient(adapter, [rows], layout), alone)
    assert_same(adapter, gradient(adapter, [rows[:4], rows[4:]], layout), alone)
    if layout is Layout.SHARED:
        assert_same(adapter, gradient(adapter, [rows[:4], rows[4:5], rows[5:]], layout, trunk=30), alone)


@pytest.mark.parametrize("keys", [1, 7, 30])
def test_keys_are_taken_some_at_a_time(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptintern.engine.attention.cpu._KEYS", keys)
    adapter = with_random_lora(tiny_model("llama"))
    rows = in_order(random_family(0, 9))
    alone = gradient(adapter, [[row] for row in rows], Layout.ALONE)
    assert_same(adapter, gradient(adapter, [rows], Layout.SHARED), alone)
    assert_same(adapter, gradient(adapter, [rows[:4], rows[4:]], Layout.SHARED, trunk=40), alone)


SCALED: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0},
    "llama3": {
        "factor": 2.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "longrope": {
        "factor": 2.0,
        "short_factor": [1.0, 1.5, 2.0, 2.5],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 256,
    },
}
"""What is done to positions. Dynamic ones and longrope scale them by a call's longest row, from where on rows of more
than that are computed alone."""


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(1, 14),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(FULL_ATTENTION),
    st.sampled_from(list(SCALED)),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 5),
)
def test_any_tree(
    seed: int, count: int, template: int, longest: int, architecture: str, rope: str, groups: int, packs: int
) -> None:
    config = tiny_config(architecture)
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = 4 // groups
        config.head_dim = config.hidden_size // config.num_attention_heads
        config.rope_parameters = {"rope_type": rope, "rope_theta": 10000.0, **SCALED[rope]}
    adapter = with_random_lora(random_model(config))
    rows = in_order(random_family(seed, count, template=template, longest=longest))
    alone = gradient(adapter, [[row] for row in rows], Layout.ALONE)
    assert_same(adapter, gradient(adapter, [rows], Layout.SHARED), alone)
    size = -(-count // packs)
    cut = [rows[i : i + size] for i in range(0, count, size)]
    assert_same(adapter, gradient(adapter, cut, Layout.SHARED, trunk=template), alone)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 60), st.integers(1, 60), st.integers(64, 160))
def test_any_window(seed: int, count: int, template: int, longest: int, window: int) -> None:
    config = tiny_config("mistral")
    config.sliding_window = window
    adapter = with_random_lora(random_model(config))
    rows = in_order(random_family(seed, count, template=template, longest=longest))
    longest_row = max(len(row.prompt_ids) + len(row.answer_ids) for row in rows)
    layout = choose(adapter).for_rows(longest_row)
    assert layout is (Layout.SHARED if longest_row <= window else Layout.MASKED)
    assert_same(adapter, gradient(adapter, [rows], layout), gradient(adapter, [[row] for row in rows], Layout.ALONE))


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_checkpointing_changes_nothing(architecture: str, dtype: torch.dtype) -> None:
    adapter = with_random_lora(tiny_model(architecture).to(dtype))
    rows = in_order(random_family(5, 6))
    packs = [rows[:3], rows[3:]]
    plain = gradient(adapter, packs, Layout.SHARED)
    adapter.model.enable_input_require_grads()
    adapter.model.gradient_checkpointing_enable({"use_reentrant": False})
    calls: list[object] = []
    attention = attention_of(last_layer(adapter.model))
    assert attention
    attention.register_forward_pre_hook(lambda *_: calls.append(None))
    assert_same(adapter, gradient(adapter, packs, Layout.SHARED), plain, rel=1e-6)
    assert len(calls) - 1 == 4, "it is computed again for each of the packs, after a first call that tries the model"


def test_where_nothing_is_shared_it_is_plain_packing() -> None:
    adapter = with_random_lora(tiny_model("llama"))
    rows = random_rows(0, 7)
    assert_same(adapter, gradient(adapter, [rows], Layout.SHARED), gradient(adapter, [rows], Layout.MASKED))


def rounding(model: Callable[[], Any], rows: list[Encoded], *, trunk: int = 0) -> list[float]:
    """How far the gradients of a model in bfloat16 are from those of the same weights in float32: for rows alone, for
    all in one pack, and in packs below a trunk if it has tokens."""
    adapter, exact = with_random_lora(model()), with_random_lora(model().float())
    exact.load_flat(adapter.flat.detach().float())
    alone = [[row] for row in rows]
    _, expected = gradient(exact, alone, Layout.ALONE)
    ways = [(Layout.ALONE, alone, 0), (Layout.SHARED, [rows], 0)]
    if trunk:
        ways.append((Layout.SHARED, [rows[:3], rows[3:6], rows[6:]], trunk))
    return [
        (gradient(adapter, packs, layout, trunk=above)[1].float() - expected).norm().item()
        for layout, packs, above in ways
    ]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox"])
@pytest.mark.parametrize(("seed", "keys"), [(0, 384), (1, 384), (2, 384), (0, 7)])
def test_bfloat16_rounds_no_more_than_rows_alone_do(
    architecture: str, seed: int, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two exact computations in bfloat16 differ; what counts is how far each is from that of the same weights in
    float32."""
    monkeypatch.setattr("promptintern.engine.attention.cpu._KEYS", keys)
    rows = in_order(random_family(seed, 9))
    alone, *together = rounding(lambda: tiny_model(architecture).to(torch.bfloat16), rows, trunk=40)
    assert all(0 < off <= 1.5 * alone for off in together)


def choose(adapter: Adapter, dropout: float = 0.0) -> Layouts:
    return choose_layouts(adapter, vocab_size=VOCABULARY, dropout=dropout, device=CPU)


@pytest.mark.parametrize("architecture", FULL_ATTENTION)
def test_the_fastest_layout_is_chosen_and_leaves_no_trace(architecture: str) -> None:
    adapter = attach_lora(tiny_model(architecture), Lora(r=4, alpha=8), seed=0)
    modes = [module.training for module in adapter.model.modules()]
    state = torch.get_rng_state()
    assert choose(adapter) == Layouts(best=Layout.SHARED, long=Layout.MASKED, sight=None, apart=None, reason="")
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in adapter.model.modules()] == modes
    assert torch.equal(adapter.flat, adapter.initial)
    assert not adapter.grad.any()
    model = adapter.model.get_base_model()
    assert model.config._attn_implementation == "sdpa"
    assert all("forward" not in vars(m) and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("r", [2, 8, 16])
def test_the_probe_tells_rounding_from_mistakes_in_bfloat16(
    architecture: str, r: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = attach_lora(tiny_model(architecture).to(torch.bfloat16), Lora(r=r, alpha=16), seed=0)
    assert choose(adapter).best is Layout.SHARED
    right = CpuKernel.backward
    for mistaken in (0, 1, 2):

        def wrong(self: CpuKernel, *args: Any, place: int = mistaken, **options: Any) -> tuple[torch.Tensor, ...]:
            parts = right(self, *args, **options)
            return tuple(torch.zeros_like(part) if i == place else part for i, part in enumerate(parts))

        with monkeypatch.context() as patch:
            patch.setattr(CpuKernel, "backward", wrong)
            assert "other gradients" in choose(adapter).reason


def test_an_ancestor_that_is_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = attach_lora(tiny_model("llama").to(torch.bfloat16), Lora(r=4, alpha=8), seed=0)
    monkeypatch.setattr("promptintern.engine.attention.tree_attention._merge", lambda *_: None)
    assert "other gradients" in choose(adapter).reason


def test_dropout_is_not_shared() -> None:
    adapter = with_random_lora(tiny_model("llama"), dropout=0.1)
    found = choose(adapter, dropout=0.1)
    assert found.best is Layout.CASCADE
    assert "dropout" in found.reason
    # and it drops: two forward passes differ
    rows = random_rows(0, 4)
    assert gradient(adapter, [rows], found.best)[0] != gradient(adapter, [rows], found.best)[0]


def test_a_recurrent_model_computes_every_row_alone() -> None:
    adapter = attach_lora(tiny_model("mamba"), Lora(r=4, alpha=8, target_modules="in_proj"), seed=0)
    found = choose(adapter)
    assert (found.best, found.long) == (Layout.ALONE, Layout.ALONE)
    assert "MambaForCausalLM" in found.reason


def test_rows_longer_than_a_sliding_window_are_masked() -> None:
    adapter = attach_lora(tiny_model("mistral"), Lora(r=4, alpha=8), seed=0)
    found = choose(adapter)
    assert found.best is Layout.MASKED
    assert "sliding window" in found.reason  # already the probe's rows are longer
    assert sight_of(adapter.model) == 6


def test_rows_that_are_computed_more_slowly_are_told_with_their_limit() -> None:
    layouts = Layouts(best=Layout.SHARED, long=Layout.MASKED, sight=100, apart=200, reason="")
    assert layouts.why_slower(100) == ""
    assert "longer than 100 tokens are computed with a mask" in layouts.why_slower(101)
    assert layouts.why_slower(102) == layouts.why_slower(101), "it is told once"
    assert "longer than 200 tokens are computed row by row" in layouts.why_slower(201)
    alone = Layouts(best=Layout.ALONE, long=Layout.ALONE, sight=100, apart=200, reason="it is recurrent")
    assert alone.why_slower(999) == "", "all rows are, and that was told"


def test_limits_decide_by_the_longest_row() -> None:
    layouts = Layouts(best=Layout.SHARED, long=Layout.MASKED, sight=100, apart=200, reason="")
    assert [layouts.for_rows(n) for n in (100, 101, 200, 201)] == [
        Layout.SHARED,
        Layout.MASKED,
        Layout.MASKED,
        Layout.ALONE,
    ]


def other_model(name: str, **changes: Any) -> Any:
    import transformers

    shape = {**tiny_config("llama").to_dict(), "head_dim": 8, **changes}
    known = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    known += ("num_key_value_heads", "max_position_embeddings", "head_dim", "pad_token_id", *changes)
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{key: shape[key] for key in known})
    model = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config)
    return model.requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("Gemma2", {}, "softcap"),
        ("GptOss", {"num_local_experts": 4}, "keep rows of one pack apart"),
        ("Qwen3", {}, ""),
        ("Olmo2", {}, ""),
        ("Gemma3Text", {"sliding_window": 16}, "sliding window"),
        ("Gemma3Text", {"sliding_window": 128}, ""),
    ],
)
def test_attention_that_is_more_or_less_than_a_softmax_is_refused(
    name: str, changes: dict[str, Any], told: str
) -> None:
    adapter = with_random_lora(other_model(name, **changes), target_modules="q_proj,k_proj,v_proj,o_proj")
    found = choose(adapter)
    assert told in found.reason
    assert bool(found.reason) == bool(told)
    rows = in_order(random_family(1, 6, template=30, longest=20))
    longest = max(len(row.prompt_ids) + len(row.answer_ids) for row in rows)
    alone = gradient(adapter, [[row] for row in rows], Layout.ALONE)
    layout = found.for_rows(longest)
    packs = [rows] if layout.packs else [[row] for row in rows]
    assert_same(adapter, gradient(adapter, packs, layout), alone)


def test_a_model_that_goes_on_in_place_with_what_a_layer_gave_has_its_prompts_shared() -> None:
    adapter = with_random_lora(other_model("Olmo", clip_qkv=8.0).to(torch.bfloat16))
    assert choose(adapter).reason == ""


def test_chunked_attention_ends_sharing_at_the_chunk() -> None:
    from transformers import Llama4TextConfig

    config = Llama4TextConfig(num_hidden_layers=4, hidden_size=32, num_local_experts=2, attention_chunk_size=64)
    assert sight_of(SimpleNamespace(config=config)) == 64


def test_positions_that_the_longest_row_scales_keep_rows_apart() -> None:
    config = tiny_config("llama")
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert rows_apart(SimpleNamespace(config=config)) == config.max_position_embeddings
    assert rows_apart(tiny_model("llama")) is None


def test_gradients_repeat_with_several_threads() -> None:
    """Prompts that are equal, in a model wide enough for kernels to share work between threads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=512, intermediate_size=512, num_hidden_layers=1, num_attention_heads=8
        )
        adapter = with_random_lora(LlamaForCausalLM(config).requires_grad_(requires_grad=False))
        prompt = random_rows(0, 1)[0].prompt_ids
        rows = in_order([Encoded(prompt_ids=prompt, answer_ids=row.answer_ids) for row in random_rows(1, 16)])
        first, *others = [gradient(adapter, [rows], Layout.SHARED)[1] for _ in range(12)]
        assert all(torch.equal(first, other) for other in others)
    finally:
        torch.set_num_threads(threads)


def test_rows_within_a_sliding_window_are_exact() -> None:
    config = tiny_config("mistral")
    config.sliding_window = 128
    torch.manual_seed(0)
    from transformers import MistralForCausalLM

    adapter = with_random_lora(MistralForCausalLM(config).requires_grad_(requires_grad=False))
    assert not cascade_fault(adapter, vocab_size=VOCABULARY, device=CPU)
    rows = in_order(random_family(3, 6))
    assert_same(adapter, gradient(adapter, [rows], Layout.SHARED), gradient(adapter, [[r] for r in rows], Layout.ALONE))


def test_evaluation_is_as_it_was_after_training() -> None:
    adapter = with_random_lora(tiny_model("llama"))
    ids = torch.tensor([random.Random(0).sample(range(3, VOCABULARY), 12)])
    before = adapter.model(input_ids=ids).logits
    gradient(adapter, [random_rows(0, 3)], Layout.SHARED)
    assert torch.equal(adapter.model(input_ids=ids).logits, before)
