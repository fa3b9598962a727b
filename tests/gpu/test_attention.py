"""PyTorch's kernels on this GPU, against attention written out in float64: forward, and backward from merged sums."""

import pytest
import torch
from promptintern.engine.attention.varlen import EfficientKernel, FlashKernel, Kernel, Sequences, kernel_for

GPU = torch.device("cuda")
Tensor = torch.Tensor


def sequences(queries: list[int], keys: list[int], *, causal: bool) -> Sequences:
    def ends(lengths: list[int]) -> Tensor:
        return torch.tensor([0, *lengths], device=GPU).cumsum(0).to(torch.int32)

    return Sequences(
        query_ends=ends(queries),
        key_ends=ends(keys),
        lengths=tuple(queries),
        longest=(max(queries), max(keys)),
        causal=causal,
    )


def written_out(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, more: Tensor, pieces: tuple[list[int], list[int]], *, causal: bool
) -> list[Tensor]:
    """Output and log-sum-exp over these keys, merged with ``more`` (log-sum-exps and zero outputs), and gradients."""
    groups = q.shape[1] // k.shape[1]
    q, k, v = (x.detach().double().requires_grad_() for x in (q, k, v))
    alone, sums = [], []
    for a, b, e in zip(torch.split(q, pieces[0]), torch.split(k, pieces[1]), torch.split(v, pieces[1]), strict=True):
        b, e = (x.repeat_interleave(groups, dim=1) for x in (b, e))  # noqa: PLW2901
        scores = torch.einsum("qhd,khd->hqk", a, b) * q.shape[-1] ** -0.5
        if causal:
            hidden = torch.ones(scores.shape[1:], dtype=torch.bool, device=GPU).triu(1 + len(b) - len(a))
            scores = scores.masked_fill(hidden, float("-inf"))
        own = scores.logsumexp(-1)
        alone.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), e))
        sums.append(own.t())
    lse = torch.cat(sums)
    share = torch.sigmoid(lse - more.double())  # of these keys
    merged = torch.cat(alone) * share[..., None]
    gradients = torch.autograd.grad(merged, [q, k, v], grad.double())
    return [torch.cat(alone), lse, merged, torch.logaddexp(lse, more.double()), *gradients]


PIECES = [([5], [5]), ([70, 1, 33, 200], [70, 1, 33, 200]), ([12, 40, 3], [300, 41, 129]), ([900], [64])]


@pytest.mark.parametrize(
    ("kernel", "dtype", "tolerance"),
    [
        (FlashKernel(), torch.bfloat16, 1.5e-2),
        (FlashKernel(), torch.float16, 2e-3),
        (EfficientKernel(), torch.float32, 1e-5),
        (EfficientKernel(), torch.bfloat16, 1.5e-2),
    ],
)
@pytest.mark.parametrize("pieces", PIECES, ids=["one", "alike", "fewer", "many"])
@pytest.mark.parametrize("heads", [(4, 4), (8, 2)], ids=["heads", "groups"])
@pytest.mark.parametrize("width", [8, 64, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_a_kernel_is_exact(
    kernel: Kernel,
    dtype: torch.dtype,
    tolerance: float,
    pieces: tuple[list[int], list[int]],
    heads: tuple[int, int],
    width: int,
    causal: bool,
) -> None:
    if causal and any(q > k for q, k in zip(*pieces, strict=True)):
        pieces = pieces[1], pieces[1]  # a query with no key has no attention
    draw = torch.Generator(GPU).manual_seed(0)
    queries, keys = map(sum, pieces)
    grad, q, k, v = (
        torch.randn(rows, n, width, device=GPU, generator=draw).to(dtype)
        for rows, n in ((queries, heads[0]), (queries, heads[0]), (keys, heads[1]), (keys, heads[1]))
    )
    more = torch.randn(queries, heads[0], device=GPU, generator=draw) * 2 + 3
    alone, lse, merged, merged_lse, *expected = written_out(grad, q, k, v, more, pieces, causal=causal)
    given = sequences(*pieces, causal=causal)
    scale = width**-0.5
    out, sums = kernel.forward(q, k, v, given, scale=scale)
    assert (out.double() - alone).norm() <= tolerance * alone.norm()
    assert (sums.double() - lse).abs().max() <= tolerance
    # What comes from other keys has no output here, so the merged one and its sums stand for the whole attention.
    found = kernel.backward(grad, q, k, v, merged.to(dtype), merged_lse.float(), given, scale=scale)
    for name, one, other in zip("qkv", found, expected, strict=True):
        assert (one.double() - other).norm() <= 2 * tolerance * other.norm(), name
    again = kernel.backward(grad, q, k, v, merged.to(dtype), merged_lse.float(), given, scale=scale)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True)), "the same bits each time"


def test_the_fastest_kernel_is_taken() -> None:
    def taken(dtype: torch.dtype, width: int, narrow: int) -> type[Kernel]:
        q, v = (torch.empty(1, 1, n, device=GPU, dtype=dtype) for n in (width, narrow))
        return type(kernel_for(q, v))

    recent = torch.cuda.get_device_capability()[0] >= 8
    assert taken(torch.float32, 64, 64) is EfficientKernel
    assert (taken(torch.bfloat16, 64, 64) is FlashKernel) == recent
    assert taken(torch.bfloat16, 192, 128) is EfficientKernel
    assert taken(torch.bfloat16, 20, 20) is EfficientKernel
    assert taken(torch.bfloat16, 512, 512) is EfficientKernel
