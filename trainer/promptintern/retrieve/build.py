"""From spec.prompt.retriever to a retriever over the training rows."""

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
    """The retriever that ``spec`` asks for, over ``pool``.

    Args:
        seed: Of kind Random.
        encoder: Of kind Embedding: what ``load_encoder`` returns. Default: loaded from ``spec.model_uri``.

    Raises:
        UserError: if an encoder has to be loaded and cannot be.
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
    from promptintern.models import fetch_model

    assert spec.model_uri is not None
    return load_encoder(fetch_model(spec.model_uri, field=FIELD).path)


@dataclass(frozen=True, kw_only=True)
class RandomDraw:
    """Rows drawn without replacement, each query by a generator of its own."""

    size: int
    seed: int

    def __call__(self, queries: Sequence[str], k: int) -> Iterator[list[int]]:
        """``k`` numbers below ``size`` for each query, in the order drawn."""
        for query in queries:
            digest = hashlib.blake2b(f"{self.seed}\n{query}".encode(), digest_size=16).digest()
            draw = random.Random(int.from_bytes(digest))
            drawn: dict[int, None] = {}
            while len(drawn) < k:
                drawn.setdefault(draw.randrange(self.size))
            yield list(drawn)
