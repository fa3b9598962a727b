"""Neighbours by the cosine of embeddings: exact, so the cost of a query grows with the pool."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

_QUERIES = 64
"""Queries multiplied at once."""
_MARGIN = 1e-4
"""A product of whole matrices rounds by its shape; texts within this much of the k-th are compared again alone."""
_DIGITS = 6
"""Cosines that agree so far are ties."""


class Encoder(Protocol):
    """What turns texts into vectors."""

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """``[len(texts), hidden]`` float32, each of length 1."""
        ...


class EmbeddingIndex:
    """The pool's vectors."""

    def __init__(self, texts: Sequence[str], encoder: Encoder) -> None:
        self._encoder = encoder
        self._vectors = encoder.encode(texts)
        self._index_by_text = {text: i for i, text in enumerate(texts)}

    def top(self, queries: Sequence[str], k: int) -> Iterator[list[int]]:
        """For each query the ``k`` nearest texts, nearest first; ties by index."""
        for start in range(0, len(queries), _QUERIES):
            query_vectors = self._vectors_of(queries[start : start + _QUERIES])
            for query, cosines in zip(query_vectors, query_vectors @ self._vectors.T, strict=True):
                floor = cosines.topk(k).values[-1] - _MARGIN
                yield self._sorted(query, (cosines >= floor).nonzero()[:, 0])[:k]

    def _vectors_of(self, queries: Sequence[str]) -> torch.Tensor:
        """Known vectors of queries that stand in the pool, new ones of the others."""
        new = list(dict.fromkeys(query for query in queries if query not in self._index_by_text))
        encoded = dict(zip(new, self._encoder.encode(new), strict=True)) if new else {}
        return torch.stack(
            [self._vectors[self._index_by_text[q]] if q in self._index_by_text else encoded[q] for q in queries]
        )

    def _sorted(self, query: torch.Tensor, candidates: torch.Tensor) -> list[int]:
        """``candidates`` by falling cosine, each summed alone in float64: the same in whatever company."""
        indices = candidates.numpy()
        cosines = (self._vectors[candidates].numpy().astype(np.float64) * query.numpy()).sum(axis=-1)
        order: list[int] = indices[np.lexsort((indices, -cosines.round(_DIGITS)))].tolist()
        return order
