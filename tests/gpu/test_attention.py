"""PyTorch's varlen kernels on this GPU against attention in float64: forward, and backward from combined outputs."""

import pytest
import torch
from promptintern.engine.attention.varlen import EfficientKernel, FlashKernel, VarlenBatch, VarlenKernel, kernel_for

GPU = torch.device("cuda")
Tensor = torch.Tensor


def varlen_batch(queries: list[int], keys: list[int], *, causal: bool) -> VarlenBatch:
    def cu_seqlens(lengths: list[int]) -> Tensor:
        return torch.tensor([0, *lengths], device=GPU).cumsum(0).to(torch.int32)

    return VarlenBatch(
        cu_seqlens_q=cu_seqlens(queries),
        cu_seqlens_k=cu_seqlens(keys),
        seqlens_q=tuple(queries),
        max_seqlen_q=max(queries),
        max_seqlen_k=max(keys),
        causal=causal,
    )


def reference(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    other_lse: Tensor,
    lengths: tuple[list[int], list[int]],
    *,
    causal: bool,
) -> list[Tensor]:
    """Return output, log-sum-exp, both combined with other keys (``other_lse``, zero outputs), and gradients."""
    groups = q.shape[1] // k.shape[1]
    q, k, v = (x.detach().double().requires_grad_() for x in (q, k, v))
    alone, sums = [], []
    for a, b, e in zip(torch.split(q, lengths[0]), torch.split(k, lengths[1]), torch.split(v, lengths[1]), strict=True):
        b, e = (x.repeat_interleave(groups, dim=1) for x in (b, e))  # noqa: PLW2901
        scores = torch.einsum("qhd,khd->hqk", a, b) * q.shape[-1] ** -0.5
        if causal:
            hidden = torch.ones(scores.shape[1:], dtype=torch.bool, device=GPU).triu(1 + len(b) - len(a))
            scores = scores.masked_fill(hidden, float("-inf"))
        own = scores.logsumexp(-1)
        alone.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), e))
        sums.append(own.t())
    lse = torch.cat(sums)
    share = torch.sigmoid(lse - other_lse.double())  # of these keys
    combined = torch.cat(alone) * share[..., None]
    gradients = torch.autograd.grad(combined, [q, k, v], grad.double())
    return [torch.cat(alone), lse, combined, torch.logaddexp(lse, other_lse.double()), *gradients]


LENGTHS = [([5], [5]), ([70, 1, 33, 200], [70, 1, 33, 200]), ([12, 40, 3], [300, 41, 129]), ([900], [64])]


@pytest.mark.parametrize(
    ("kernel", "dtype", "tolerance"),
    [
        (FlashKernel(), torch.bfloat16, 1.5e-2),
        (FlashKernel(), torch.float16, 2e-3),
        (EfficientKernel(), torch.float32, 1e-5),
        (EfficientKernel(), torch.bfloat16, 1.5e-2),
    ],
)
@pytest.mark.parametrize("lengths", LENGTHS, ids=["one", "alike", "fewer", "many"])
@pytest.mark.parametrize("heads", [(4, 4), (8, 2)], ids=["heads", "groups"])
@pytest.mark.parametrize("width", [8, 64, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_a_kernel_is_exact(
    kernel: VarlenKernel,
    dtype: torch.dtype,
    tolerance: float,
    lengths: tuple[list[int], list[int]],
    heads: tuple[int, int],
    width: int,
    causal: bool,
) -> None:
    if causal and any(q > k for q, k in zip(*lengths, strict=True)):
        lengths = lengths[1], lengths[1]  # a query with no key has no attention
    draw = torch.Generator(GPU).manual_seed(0)
    queries, keys = map(sum, lengths)
    grad, q, k, v = (
        torch.randn(rows, n, width, device=GPU, generator=draw).to(dtype)
        for rows, n in ((queries, heads[0]), (queries, heads[0]), (keys, heads[1]), (keys, heads[1]))
    )
    other_lse = torch.randn(queries, heads[0], device=GPU, generator=draw) * 2 + 3
    alone, lse, combined, combined_lse, *expected = reference(grad, q, k, v, other_lse, lengths, causal=causal)
    batch = varlen_batch(*lengths, causal=causal)
    scale = width**-0.5
    out, sums = kernel.forward(q, k, v, batch, scale=scale)
    assert (out.double() - alone).norm() <= tolerance * alone.norm()
    assert (sums.double() - lse).abs().max() <= tolerance
    # The other keys have zero output, so the combined output and log-sum-exp are those of the whole attention.
    gradients = kernel.backward(grad, q, k, v, combined.to(dtype), combined_lse.float(), batch, scale=scale)
    for name, one, other in zip("qkv", gradients, expected, strict=True):
        assert (one.double() - other).norm() <= 2 * tolerance * other.norm(), name
    again = kernel.backward(grad, q, k, v, combined.to(dtype), combined_lse.float(), batch, scale=scale)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True)), "every call returns the same bits"


def test_the_fastest_kernel_is_taken() -> None:
    def taken(dtype: torch.dtype, width: int, narrow: int) -> type[VarlenKernel]:
        q, v = (torch.empty(1, 1, n, device=GPU, dtype=dtype) for n in (width, narrow))
        return type(kernel_for(q, v))

    recent = torch.cuda.get_device_capability()[0] >= 8
    assert taken(torch.float32, 64, 64) is EfficientKernel
    assert (taken(torch.bfloat16, 64, 64) is FlashKernel) == recent
    assert taken(torch.bfloat16, 192, 128) is EfficientKernel
    assert taken(torch.bfloat16, 20, 20) is EfficientKernel
    assert taken(torch.bfloat16, 512, 512) is EfficientKernel
