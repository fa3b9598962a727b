"""Every layout computes the loss and the gradients of rows in packs of their own."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from promptintern.engine.adapter import Adapter, attach_lora
from promptintern.engine.attention.cpu import CpuKernel
from promptintern.engine.attention.prefix_tree import Prefixes
from promptintern.engine.attention.registration import attention_window, rope_scaling_limit
from promptintern.engine.fused import chunked_loss
from promptintern.engine.fused.last_layer import attention_of, last_layer
from promptintern.engine.packing.forward import pack_tensors, pack_top_k
from promptintern.engine.packing.layout import (
    PackLayout,
    SupportedLayouts,
    patched_for,
    probe_layouts,
    tree_attention_fault,
)
from promptintern.prompt.encode import Encoded
from promptintern_api.training import Lora, TeacherLoss

from tests.tiny import ARCHITECTURES, VOCABULARY, random_model, tiny_config, tiny_model
from tests.unit.engine.adapters import CPU, gradient, with_random_lora
from tests.unit.engine.rows import random_family, random_rows, taught

FULL_ATTENTION = [name for name in ARCHITECTURES if name != "mistral"]
"""Tiny Mistral has a sliding window of 6 tokens."""


def in_order(rows: list[Encoded]) -> list[Encoded]:
    return [rows[i] for i in Prefixes([row.prompt_ids for row in rows]).sort(range(len(rows)))]


def assert_same(
    adapter: Adapter, actual: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor], rel: float = 1e-5
) -> None:
    """Compare the loss and the gradient of every LoRA matrix.

    A gradient that is small beside the others is a difference of large numbers, so it is compared down to a few units
    of rounding of the largest one: in 400 random cases the worst error of a small one was 1.2e-7 of the largest norm.
    """
    assert abs(actual[0] - expected[0]) <= rel * abs(expected[0])
    norms = [expected[1][slot.start : slot.stop].norm().item() for slot in adapter.slots]
    assert min(norms) > 0  # there is something to compare
    rounding_error = 4 * torch.finfo(torch.float32).eps * max(norms)
    for slot, norm in zip(adapter.slots, norms, strict=True):
        off = (actual[1] - expected[1])[slot.start : slot.stop].norm().item()
        assert off <= max(rel * norm, rounding_error), slot


@pytest.mark.parametrize("architecture", FULL_ATTENTION)
@pytest.mark.parametrize("layout", [PackLayout.VARLEN, PackLayout.PREFIX_TREE])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_gradients_are_those_of_rows_alone(architecture: str, layout: PackLayout, seed: int) -> None:
    adapter = with_random_lora(tiny_model(architecture))
    rows = in_order(random_family(seed, 9))
    alone = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    assert_same(adapter, gradient(adapter, [rows], layout), alone)
    assert_same(adapter, gradient(adapter, [rows[:4], rows[4:]], layout), alone)
    if layout is PackLayout.PREFIX_TREE:
        assert_same(adapter, gradient(adapter, [rows[:4], rows[4:5], rows[5:]], layout, prefix_tokens=30), alone)


@pytest.mark.parametrize("keys", [1, 7, 30])
def test_keys_in_several_calls(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptintern.engine.attention.cpu._KEYS_PER_CALL", keys)
    adapter = with_random_lora(tiny_model("llama"))
    rows = in_order(random_family(0, 9))
    alone = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    assert_same(adapter, gradient(adapter, [rows], PackLayout.PREFIX_TREE), alone)
    assert_same(adapter, gradient(adapter, [rows[:4], rows[4:]], PackLayout.PREFIX_TREE, prefix_tokens=40), alone)


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
"""Options of rotary position embeddings, by type. Dynamic and longrope scale positions by a call's longest row, so rows
longer than the limit are not packed."""


@settings(max_examples=40)
@example(13763, 1, 3, 1, "qwen2", "linear", 4, 1)  # one gradient is 200 times smaller than the largest
@example(975828, 1, 67, 1, "mixtral", "default", 4, 3)  # one is 1,100 times smaller
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
    alone = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    assert_same(adapter, gradient(adapter, [rows], PackLayout.PREFIX_TREE), alone)
    size = -(-count // packs)
    cut = [rows[i : i + size] for i in range(0, count, size)]
    assert_same(adapter, gradient(adapter, cut, PackLayout.PREFIX_TREE, prefix_tokens=template), alone)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 60), st.integers(1, 60), st.integers(64, 160))
def test_any_window(seed: int, count: int, template: int, longest: int, window: int) -> None:
    config = tiny_config("mistral")
    config.sliding_window = window
    adapter = with_random_lora(random_model(config))
    rows = in_order(random_family(seed, count, template=template, longest=longest))
    longest_row = max(len(row.prompt_ids) + len(row.answer_ids) for row in rows)
    layout = choose(adapter).for_rows(longest_row)
    assert layout is (PackLayout.PREFIX_TREE if longest_row <= window else PackLayout.MASKED)
    assert_same(
        adapter, gradient(adapter, [rows], layout), gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    )


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
@pytest.mark.parametrize("layout", [PackLayout.MASKED, PackLayout.VARLEN, PackLayout.PREFIX_TREE])
@pytest.mark.parametrize("loss", [TeacherLoss.FORWARD_KL, TeacherLoss.JENSEN_SHANNON])
def test_rows_with_a_teacher_are_computed_as_alone(
    architecture: str, layout: PackLayout, loss: TeacherLoss, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(chunked_loss._CHUNK_LOGITS, "cpu", 40 * VOCABULARY)  # several chunks
    adapter = with_random_lora(tiny_model(architecture))
    rows = in_order(taught(random_family(1, 9), loss=loss))
    expected = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    assert_same(adapter, gradient(adapter, [rows], layout), expected)
    if layout is PackLayout.PREFIX_TREE:
        assert_same(adapter, gradient(adapter, [rows[:4], rows[4:]], layout, prefix_tokens=40), expected)


@pytest.mark.parametrize("layout", [PackLayout.UNPACKED, PackLayout.MASKED, PackLayout.VARLEN, PackLayout.PREFIX_TREE])
def test_the_teachers_distributions_are_those_of_rows_alone(
    layout: PackLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(chunked_loss._CHUNK_LOGITS, "cpu", 6 * VOCABULARY)  # several chunks
    adapter = with_random_lora(tiny_model("llama"))
    rows = in_order(random_family(1, 1 if layout is PackLayout.UNPACKED else 7))
    with patched_for(adapter.model, layout):
        pack = pack_tensors(
            rows,
            device=CPU,
            tree_attention=layout.uses_tree_attention,
            share_prefixes=layout is PackLayout.PREFIX_TREE,
        )
        ids, log_probs = pack_top_k(adapter.model, pack, 4)
    start = 0
    for row in rows:
        whole = torch.tensor([[*row.prompt_ids, *row.answer_ids]])
        with torch.no_grad():
            logits = adapter.model(input_ids=whole).logits[0, len(row.prompt_ids) - 1 : -1]
        expected = torch.log_softmax(logits.float(), dim=1)
        stop = start + len(row.answer_ids)
        assert torch.equal(ids[start:stop].long(), expected.topk(4).indices)
        assert torch.allclose(log_probs[start:stop, :4], expected.topk(4).values, atol=1e-4)
        start = stop
    assert start == len(ids)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_checkpointing_changes_nothing(architecture: str, dtype: torch.dtype) -> None:
    adapter = with_random_lora(tiny_model(architecture).to(dtype))
    rows = in_order(random_family(5, 6))
    packs = [rows[:3], rows[3:]]
    plain = gradient(adapter, packs, PackLayout.PREFIX_TREE)
    adapter.model.enable_input_require_grads()
    adapter.model.gradient_checkpointing_enable({"use_reentrant": False})
    calls: list[object] = []
    attention = attention_of(last_layer(adapter.model))
    assert attention
    attention.register_forward_pre_hook(lambda *_: calls.append(None))
    assert_same(adapter, gradient(adapter, packs, PackLayout.PREFIX_TREE), plain, rel=1e-6)
    assert len(calls) - 1 == 4, "one recomputation for each pack, besides one call that probes the model"


def test_without_common_prefixes_it_equals_masked_packing() -> None:
    adapter = with_random_lora(tiny_model("llama"))
    rows = random_rows(0, 7)
    assert_same(
        adapter, gradient(adapter, [rows], PackLayout.PREFIX_TREE), gradient(adapter, [rows], PackLayout.MASKED)
    )


def rounding(model: Callable[[], Any], rows: list[Encoded], *, prefix_tokens: int = 0) -> list[float]:
    """Return the errors of a bfloat16 model's gradients relative to those of the same weights in float32.

    They are for unpacked rows, for all rows in one pack and, if ``prefix_tokens`` is not 0, for packs below a shared
    prefix.
    """
    adapter, exact = with_random_lora(model()), with_random_lora(model().float())
    exact.load_flat(adapter.flat.detach().float())
    alone = [[row] for row in rows]
    _, expected = gradient(exact, alone, PackLayout.UNPACKED)
    ways = [(PackLayout.UNPACKED, alone, 0), (PackLayout.PREFIX_TREE, [rows], 0)]
    if prefix_tokens:
        ways.append((PackLayout.PREFIX_TREE, [rows[:3], rows[3:6], rows[6:]], prefix_tokens))
    return [
        (gradient(adapter, packs, layout, prefix_tokens=tokens)[1].float() - expected).norm().item()
        for layout, packs, tokens in ways
    ]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox"])
@pytest.mark.parametrize(("seed", "keys"), [(0, 384), (1, 384), (2, 384), (0, 7)])
def test_bfloat16_rounds_no_more_than_rows_alone_do(
    architecture: str, seed: int, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two exact computations in bfloat16 differ; what counts is the error of each relative to float32."""
    monkeypatch.setattr("promptintern.engine.attention.cpu._KEYS_PER_CALL", keys)
    rows = in_order(random_family(seed, 9))
    alone, *together = rounding(lambda: tiny_model(architecture).to(torch.bfloat16), rows, prefix_tokens=40)
    assert all(0 < off <= 1.5 * alone for off in together)


def choose(adapter: Adapter, dropout: float = 0.0) -> SupportedLayouts:
    return probe_layouts(adapter, vocab_size=VOCABULARY, dropout=dropout, device=CPU)


@pytest.mark.parametrize("architecture", FULL_ATTENTION)
def test_the_fastest_layout_is_chosen_and_leaves_no_trace(architecture: str) -> None:
    adapter = attach_lora(tiny_model(architecture), Lora(r=4, alpha=8), seed=0)
    modes = [module.training for module in adapter.model.modules()]
    state = torch.get_rng_state()
    assert choose(adapter) == SupportedLayouts(
        best=PackLayout.PREFIX_TREE,
        for_long_rows=PackLayout.MASKED,
        attention_window=None,
        rope_scaling_limit=None,
        reason="",
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in adapter.model.modules()] == modes
    assert torch.equal(adapter.flat, adapter.initial)
    assert not adapter.grad.any()
    model = adapter.model.get_base_model()
    assert model.config._attn_implementation == "sdpa"
    assert all("forward" not in vars(m) and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("r", [2, 8, 16])
def test_the_probe_separates_rounding_from_mistakes_in_bfloat16(
    architecture: str, r: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = attach_lora(tiny_model(architecture).to(torch.bfloat16), Lora(r=r, alpha=16), seed=0)
    assert choose(adapter).best is PackLayout.PREFIX_TREE
    right = CpuKernel.backward
    for mistaken in (0, 1, 2):

        def wrong(self: CpuKernel, *args: Any, place: int = mistaken, **options: Any) -> tuple[torch.Tensor, ...]:
            parts = right(self, *args, **options)
            return tuple(torch.zeros_like(part) if i == place else part for i, part in enumerate(parts))

        with monkeypatch.context() as patch:
            patch.setattr(CpuKernel, "backward", wrong)
            assert "other gradients" in choose(adapter).reason


def test_the_probe_notices_an_omitted_ancestor(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = attach_lora(tiny_model("llama").to(torch.bfloat16), Lora(r=4, alpha=8), seed=0)
    monkeypatch.setattr("promptintern.engine.attention.tree_attention._combine", lambda *_: None)
    assert "other gradients" in choose(adapter).reason


def test_with_dropout_no_prefix_is_shared() -> None:
    adapter = with_random_lora(tiny_model("llama"), dropout=0.1)
    layouts = choose(adapter, dropout=0.1)
    assert layouts.best is PackLayout.VARLEN
    assert "dropout" in layouts.reason
    # and it drops: two forward passes differ
    rows = random_rows(0, 4)
    assert gradient(adapter, [rows], layouts.best)[0] != gradient(adapter, [rows], layouts.best)[0]


def test_a_recurrent_model_is_not_packed() -> None:
    adapter = attach_lora(tiny_model("mamba"), Lora(r=4, alpha=8, target_modules="in_proj"), seed=0)
    layouts = choose(adapter)
    assert (layouts.best, layouts.for_long_rows) == (PackLayout.UNPACKED, PackLayout.UNPACKED)
    assert "MambaForCausalLM" in layouts.reason


def test_rows_longer_than_a_sliding_window_are_masked() -> None:
    adapter = attach_lora(tiny_model("mistral"), Lora(r=4, alpha=8), seed=0)
    layouts = choose(adapter)
    assert layouts.best is PackLayout.MASKED
    assert "sliding window" in layouts.reason  # already the probe's rows are longer
    assert attention_window(adapter.model) == 6


LIMITED = SupportedLayouts(
    best=PackLayout.PREFIX_TREE,
    for_long_rows=PackLayout.MASKED,
    attention_window=100,
    rope_scaling_limit=200,
    reason="",
)
"""Layouts of a model in which long rows are masked, and longer rows unpacked."""


def test_the_reason_for_a_slower_layout_names_the_limit() -> None:
    layouts = LIMITED
    assert layouts.slow_reason(100) == ""
    assert "longer than 100 tokens are computed with a mask" in layouts.slow_reason(101)
    assert layouts.slow_reason(102) == layouts.slow_reason(101), "one message for all stages"
    assert "longer than 200 tokens are computed row by row" in layouts.slow_reason(201)
    alone = SupportedLayouts(
        best=PackLayout.UNPACKED,
        for_long_rows=PackLayout.UNPACKED,
        attention_window=100,
        rope_scaling_limit=200,
        reason="it is recurrent",
    )
    assert alone.slow_reason(999) == "", "all rows are, for another reason"


def test_limits_decide_by_the_longest_row() -> None:
    layouts = LIMITED
    assert [layouts.for_rows(n) for n in (100, 101, 200, 201)] == [
        PackLayout.PREFIX_TREE,
        PackLayout.MASKED,
        PackLayout.MASKED,
        PackLayout.UNPACKED,
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
    ("name", "changes", "reason"),
    [
        ("Gemma2", {}, "softcap"),
        ("GptOss", {"num_local_experts": 4}, "keep the rows of a pack apart"),
        ("Qwen3", {}, ""),
        ("Olmo2", {}, ""),
        ("Gemma3Text", {"sliding_window": 16}, "sliding window"),
        ("Gemma3Text", {"sliding_window": 128}, ""),
    ],
)
def test_attention_that_is_more_or_less_than_a_softmax_is_refused(
    name: str, changes: dict[str, Any], reason: str
) -> None:
    adapter = with_random_lora(other_model(name, **changes), target_modules="q_proj,k_proj,v_proj,o_proj")
    layouts = choose(adapter)
    assert reason in layouts.reason
    assert bool(layouts.reason) == bool(reason)
    rows = in_order(random_family(1, 6, template=30, longest=20))
    longest = max(len(row.prompt_ids) + len(row.answer_ids) for row in rows)
    alone = gradient(adapter, [[row] for row in rows], PackLayout.UNPACKED)
    layout = layouts.for_rows(longest)
    packs = [rows] if layout.is_packed else [[row] for row in rows]
    assert_same(adapter, gradient(adapter, packs, layout), alone)


def test_a_model_that_modifies_a_layers_output_in_place_shares_prefixes() -> None:
    adapter = with_random_lora(other_model("Olmo", clip_qkv=8.0).to(torch.bfloat16))
    assert choose(adapter).reason == ""


def test_chunked_attention_limits_the_attention_window() -> None:
    from transformers import Llama4TextConfig

    config = Llama4TextConfig(num_hidden_layers=4, hidden_size=32, num_local_experts=2, attention_chunk_size=64)
    assert attention_window(SimpleNamespace(config=config)) == 64


def test_positions_scaled_by_the_longest_row_limit_packing() -> None:
    config = tiny_config("llama")
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert rope_scaling_limit(SimpleNamespace(config=config)) == config.max_position_embeddings
    assert rope_scaling_limit(tiny_model("llama")) is None


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
        first, *others = [gradient(adapter, [rows], PackLayout.PREFIX_TREE)[1] for _ in range(12)]
        assert all(torch.equal(first, other) for other in others)
    finally:
        torch.set_num_threads(threads)


def test_rows_within_a_sliding_window_are_exact() -> None:
    config = tiny_config("mistral")
    config.sliding_window = 128
    torch.manual_seed(0)
    from transformers import MistralForCausalLM

    adapter = with_random_lora(MistralForCausalLM(config).requires_grad_(requires_grad=False))
    assert not tree_attention_fault(adapter, vocab_size=VOCABULARY, device=CPU)
    rows = in_order(random_family(3, 6))
    assert_same(
        adapter,
        gradient(adapter, [rows], PackLayout.PREFIX_TREE),
        gradient(adapter, [[r] for r in rows], PackLayout.UNPACKED),
    )


def test_evaluation_is_as_it_was_after_training() -> None:
    adapter = with_random_lora(tiny_model("llama"))
    ids = torch.tensor([random.Random(0).sample(range(3, VOCABULARY), 12)])
    before = adapter.model(input_ids=ids).logits
    gradient(adapter, [random_rows(0, 3)], PackLayout.PREFIX_TREE)
    assert torch.equal(adapter.model(input_ids=ids).logits, before)
