"""The queries that the base model wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from promptintern.document import Document
from promptintern.rows.duplicates import normalise_query
from promptintern.rows.types import Query


class WrittenQueries(Document):
    """The queries of one shard, as storage holds them."""

    queries: list[str]
    dropped: dict[str, int]
    """The number of drawn queries that are left out, by reason."""


@dataclass(kw_only=True)
class SelfStudy:
    """All queries that the base model has written so far."""

    queries: list[str] = field(default_factory=list)
    drawn: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """The number of drawn queries that are left out, by reason."""
    keys: set[str] = field(default_factory=set)
    """The normalised queries."""

    def add(self, shard: WrittenQueries) -> None:
        """Add the queries of one more shard."""
        self.queries += shard.queries
        self.keys.update(map(normalise_query, shard.queries))
        self.drawn += len(shard.queries) + sum(shard.dropped.values())
        for reason, count in shard.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    @property
    def valid_share(self) -> float:
        """The share of the drawn queries that are valid and distinct."""
        return len(self.queries) / self.drawn if self.drawn else 0.0


def written_rows(queries: Sequence[str]) -> list[Query]:
    """Return the written ``queries`` as rows."""
    return [
        Query(query=query, id=f"written-{i + 1}", where=f"written query {i + 1}", is_written=True)
        for i, query in enumerate(queries)
    ]


def count_reasons(dropped: Mapping[str, int]) -> str:
    """Return the reasons for which queries are left out, each with its count, as parts of a sentence."""
    return "; ".join(f"{'once' if count == 1 else f'{count:,} times'}, {reason}" for reason, count in dropped.items())
