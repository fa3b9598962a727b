"""BM25 search over the queries of the training rows. A search visits a limited part of an index that bm25s builds."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import bm25s
import numpy as np
from numpy.typing import NDArray

_NO_SPACES = "\u2e80-\u9fff\uf900-\ufaff"
"""The characters of scripts without spaces between words (Chinese, Japanese). Each of them is a term."""
_WORD = re.compile(rf"(?!\W)[{_NO_SPACES}]|[^\W{_NO_SPACES}]+")
MAX_POSTINGS = 4096
"""The largest number of index entries that one query visits."""
MAX_CANDIDATES = 128
"""The number of documents whose full scores are computed if a query reaches ``MAX_POSTINGS`` (or ``k``, if larger)."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def terms_in(text: str) -> list[str]:
    """Return the terms of ``text``: case-folded runs of letters, digits and underscores, or single CJK characters."""
    return _WORD.findall(text.casefold())


@dataclass(frozen=True, kw_only=True)
class _CsrMatrix:
    """A matrix in compressed sparse row format: row ``i`` consists of the entries ``indptr[i]`` to
    ``indptr[i + 1] - 1``."""

    indptr: Ints
    indices: Ints
    """The column of each entry, as 64-bit integers. NumPy would convert other integer types at every look-up."""
    weights: NDArray[np.float32]


class BM25Index:
    """An index that finds the best documents for a query by BM25 (Lucene's variant, k1 1.5, b 0.75).

    A term's weight in a document is fixed when the index is built. A query visits its terms' posting lists from the
    rarest term to the most frequent one, heaviest entries first, and adds up the weights by document. It stops when all
    entries, or ``max_postings`` of them, have been read. If all entries have been read, the result is exact. Otherwise
    the best documents so far are scored in full, over all terms. This can miss a document that would rank high only
    because of frequent terms, whose weights are small. Without the limit, the cost of a query would grow with the pool,
    because the posting lists of frequent terms grow with it.
    """

    def __init__(self, texts: Sequence[str], *, max_postings: int = MAX_POSTINGS) -> None:
        model = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
        model.index([terms_in(text) or [""] for text in texts], show_progress=False)
        columns = model.scores
        starts = np.asarray(columns["indptr"], dtype=np.int64)
        by_term = _CsrMatrix(
            indptr=starts,
            indices=np.asarray(columns["indices"], dtype=np.int64),
            weights=np.asarray(columns["data"], dtype=np.float32),
        )
        self._terms: dict[str, int] = {w: i for w, i in model.vocab_dict.items() if i + 1 < len(starts)}
        self._documents = _transposed(by_term, rows=len(texts))
        self._postings = _heaviest_first(by_term)
        self._lengths: list[int] = np.diff(starts).tolist()
        self._starts: list[int] = starts[:-1].tolist()
        self._count = len(texts)
        self._max_postings = max_postings
        # Scratch space; all values are zero between queries.
        self._sums = np.zeros(self._count)
        self._query_counts = np.zeros(len(starts))

    def top(self, text: str, k: int) -> list[int]:
        """Return the ``k`` best documents for ``text``, best first.

        Ties are in the order of the pool. Documents that share no term with ``text`` come last, in the same order.
        """
        counts = Counter(self._terms[word] for word in terms_in(text) if word in self._terms)
        terms = sorted(counts, key=lambda term: (self._lengths[term], term))
        docs, scores, complete = self._visit(terms, counts)
        if not complete:
            docs = _largest(docs, scores, max(k, MAX_CANDIDATES))
            scores = self._full_scores(docs, counts)
        best: list[int] = _largest(docs, scores, k).tolist()
        if len(best) < k:
            seen = set(best)
            unscored = (i for i in range(self._count) if i not in seen)
            best += islice(unscored, k - len(best))
        return best

    def _visit(self, terms: Sequence[int], counts: Counter[int]) -> tuple[Ints, Floats, bool]:
        """Visit the posting lists of ``terms``.

        Return the documents in the visited entries, the sum of the weights of each of these documents, and whether all
        entries were visited.
        """
        sums, postings, budget = self._sums, self._postings, self._max_postings
        met: list[Ints] = []
        for term in terms:
            begin, length = self._starts[term], min(self._lengths[term], budget)
            docs = postings.indices[begin : begin + length]
            before = sums.take(docs)
            met.append(docs[before == 0])
            sums[docs] = before + counts[term] * postings.weights[begin : begin + length]
            budget -= length
            if budget == 0:
                break
        visited = np.concatenate(met) if met else np.zeros(0, dtype=np.int64)
        values = sums.take(visited)
        sums[visited] = 0
        return visited, values, sum(self._lengths[term] for term in terms) <= self._max_postings

    def _full_scores(self, docs: Ints, counts: Counter[int]) -> Floats:
        """Return the full score of each document in ``docs``: the sum over all terms of the query (``counts``).

        Terms are always added in the same order, so a score does not depend on which other documents are scored.
        """
        query_counts, matrix = self._query_counts, self._documents
        query_counts[list(counts)] = list(counts.values())
        begin = matrix.indptr[docs]
        length = matrix.indptr[docs + 1] - begin
        offsets = np.cumsum(length) - length
        at = np.repeat(begin - offsets, length) + np.arange(length.sum())
        sums: Floats = np.add.reduceat(matrix.weights.take(at) * query_counts.take(matrix.indices.take(at)), offsets)
        query_counts[list(counts)] = 0
        return sums


def _largest(docs: Ints, scores: Floats, k: int) -> Ints:
    """Return the ``k`` documents of ``docs`` with the largest scores, by descending score, ties by document number."""
    if len(docs) > 4 * k:
        floor = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = scores >= floor
        docs, scores = docs[kept], scores[kept]
    return docs[np.lexsort((docs, -scores))[:k]]


def _heaviest_first(matrix: _CsrMatrix) -> _CsrMatrix:
    """Return ``matrix`` with the entries of each row sorted by descending weight, ties by column."""
    row = np.repeat(np.arange(len(matrix.indptr) - 1), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.weights, row))
    return _CsrMatrix(indptr=matrix.indptr, indices=matrix.indices[order], weights=matrix.weights[order])


def _transposed(matrix: _CsrMatrix, *, rows: int) -> _CsrMatrix:
    """Return the transpose of ``matrix``, which has a row per document. A row's entries are in the order of terms."""
    term = np.repeat(np.arange(len(matrix.indptr) - 1), np.diff(matrix.indptr))
    order = np.argsort(matrix.indices, kind="stable")
    starts = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(matrix.indices, minlength=rows), out=starts[1:])
    return _CsrMatrix(indptr=starts, indices=term[order], weights=matrix.weights[order])
