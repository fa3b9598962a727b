"""Builds the retriever that spec.prompt.retriever describes, which finds examples in the training rows."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from promptintern_api.prompt import Retriever as RetrieverSpec
from promptintern_api.prompt import RetrieverKind

from promptintern.retrieve.bm25 import BM25Index
from promptintern.retrieve.embedding import EmbeddingIndex
from promptintern.retrieve.encoder import FIELD, load_encoder
from promptintern.retrieve.pool import Pool, Ranker, Retriever
from promptintern.rows.types import Row


def build_retriever(spec: RetrieverSpec, pool: Sequence[Row], *, seed: int, encoder: Any = None) -> Retriever:
    """Build the retriever that ``spec`` describes, which finds examples in the rows ``pool``.

    Args:
        seed: The seed for kind Random.
        encoder: The ``TextEncoder`` for kind Embedding. If None, it is loaded from ``spec.model_uri``.

    Raises:
        UserError: if the encoder of kind Embedding cannot be loaded.
    """
    distinct = Pool.of(pool)
    return Retriever(distinct, _ranker(spec, distinct.texts, seed=seed, encoder=encoder))


def _ranker(spec: RetrieverSpec, texts: Sequence[str], *, seed: int, encoder: Any) -> Ranker:
    match spec.kind:
        case RetrieverKind.BM25:
            index = BM25Index(texts) if texts else None
            return lambda queries, k: (index.top(query, k) if index else [] for query in queries)
        case RetrieverKind.EMBEDDING:
            return EmbeddingIndex(texts, encoder or _default_encoder(spec)).top
        case RetrieverKind.RANDOM:
            return RandomDraw(size=len(texts), seed=seed)


def _default_encoder(spec: RetrieverSpec) -> Any:
    from promptintern.models.fetch import fetch_model

    assert spec.model_uri is not None
    return load_encoder(fetch_model(spec.model_uri, field=FIELD).path)


@dataclass(frozen=True, kw_only=True)
class RandomDraw:
    """A ranker that draws texts at random and without replacement. Each query has its own random generator."""

    size: int
    seed: int

    def __call__(self, queries: Sequence[str], k: int) -> Iterator[list[int]]:
        """Yield ``k`` distinct indices below ``size`` for each query, in the order in which they are drawn."""
        for query in queries:
            digest = hashlib.blake2b(f"{self.seed}\n{query}".encode(), digest_size=16).digest()
            draw = random.Random(int.from_bytes(digest))
            drawn: dict[int, None] = {}
            while len(drawn) < k:
                drawn.setdefault(draw.randrange(self.size))
            yield list(drawn)
