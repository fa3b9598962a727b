"""The pool of rows from which examples are drawn, and the retriever, which finds examples with any ranker."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from promptintern.errors import UserError
from promptintern.rows.duplicates import normalise_query
from promptintern.rows.types import Row

Ranker = Callable[[Sequence[str], int], Iterable[list[int]]]
"""A function that returns the indices of the best ``k`` texts of the pool for each query, best first. A query's ranking
depends only on that query, and the ranking for a smaller ``k`` is a prefix of the ranking for a larger ``k``."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The training rows without duplicates. Of several rows with the same query, only the first is in the pool."""

    texts: list[str]
    """The queries of the rows in the pool, which are all different after normalisation."""
    rows: list[int]
    """For each text, the index of its row among the training rows."""
    index_by_query: dict[str, int] = field(repr=False)
    """The index in ``texts``, by normalised query."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Pool":
        """Return the pool that is built from the training rows ``rows``."""
        index_by_query: dict[str, int] = {}
        first: list[int] = []
        for index, row in enumerate(rows):
            key = normalise_query(row.query)
            if key not in index_by_query:
                index_by_query[key] = len(first)
                first.append(index)
        return cls(texts=[rows[i].query for i in first], rows=first, index_by_query=index_by_query)


class Retriever:
    """A retriever, which finds examples in the pool with a ranker."""

    def __init__(self, pool: Pool, rank: Ranker) -> None:
        self._pool = pool
        self._rank = rank

    def neighbours(self, queries: Sequence[str], k: int) -> list[list[int]]:
        """Return the indices of ``k`` training rows for each query, best last, so that the best is next to the query.

        None of these rows has the same normalised query as the query itself, and no two are duplicates of each other.
        The result for a query does not depend on the other queries. Its last ``j`` rows are the result for ``k = j``.

        Raises:
            UserError: at ``spec.schedule.shots``, if the pool has too few distinct queries for ``k``.
        """
        if k <= 0:
            return [[] for _ in queries]
        own_indices = [self._pool.index_by_query.get(normalise_query(query)) for query in queries]
        self._check_size(own_indices, k)
        # Rank one more than ``k``, because the query itself may be among the best.
        num_ranked = min(k + 1, len(self._pool.texts))
        return [
            [self._pool.rows[i] for i in reversed([i for i in ranked if i != own_index][:k])]
            for own_index, ranked in zip(own_indices, self._rank(queries, num_ranked), strict=True)
        ]

    def _check_size(self, own_indices: Sequence[int | None], k: int) -> None:
        size = len(self._pool.texts)
        available = size - 1 if any(own_index is not None for own_index in own_indices) else size
        if own_indices and k > available:
            raise UserError.at(
                "spec.schedule.shots",
                f"is {k}, but the training rows have {size} distinct queries, so a prompt can have at most {available} "
                "examples (a query is never its own example); lower it, or add rows",
            )
