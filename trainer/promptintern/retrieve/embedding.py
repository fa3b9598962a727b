"""Exact nearest-neighbour search by the cosine similarity of embeddings. The cost of a query grows with the pool."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

_QUERIES = 64
"""The number of queries in one matrix product."""
_MARGIN = 1e-4
"""How far a text's cosine may be below the k-th best cosine for the text to be compared again in float64. A matrix
product rounds differently for different shapes."""
_DIGITS = 6
"""The number of decimal places to which cosines are rounded. Cosines that are equal after rounding are ties."""


class Encoder(Protocol):
    """An encoder, which turns texts into vectors."""

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Return float32 vectors ``[len(texts), hidden]`` of length 1."""
        ...


class EmbeddingIndex:
    """An index that finds, among the texts from which it is built, those that are nearest to a query."""

    def __init__(self, texts: Sequence[str], encoder: Encoder) -> None:
        self._encoder = encoder
        self._vectors = encoder.encode(texts)
        self._index_by_text = {text: i for i, text in enumerate(texts)}

    def top(self, queries: Sequence[str], k: int) -> Iterator[list[int]]:
        """Yield, for each query, the indices of the ``k`` texts nearest to it, nearest first, ties by index."""
        for start in range(0, len(queries), _QUERIES):
            query_vectors = self._vectors_of(queries[start : start + _QUERIES])
            for query, cosines in zip(query_vectors, query_vectors @ self._vectors.T, strict=True):
                floor = cosines.topk(k).values[-1] - _MARGIN
                yield self._sorted(query, (cosines >= floor).nonzero()[:, 0])[:k]

    def _vectors_of(self, queries: Sequence[str]) -> torch.Tensor:
        """Return the vectors of ``queries``. Queries that are not among the index's texts are encoded first."""
        new = list(dict.fromkeys(query for query in queries if query not in self._index_by_text))
        encoded = dict(zip(new, self._encoder.encode(new), strict=True)) if new else {}
        return torch.stack(
            [self._vectors[self._index_by_text[q]] if q in self._index_by_text else encoded[q] for q in queries]
        )

    def _sorted(self, query: torch.Tensor, candidates: torch.Tensor) -> list[int]:
        """Return the indices ``candidates`` by descending cosine to ``query``, ties by index.

        Each cosine is computed separately and in float64, so it does not depend on the other candidates.
        """
        indices = candidates.numpy()
        cosines = (self._vectors[candidates].numpy().astype(np.float64) * query.numpy()).sum(axis=-1)
        order: list[int] = indices[np.lexsort((indices, -cosines.round(_DIGITS)))].tolist()
        return order
