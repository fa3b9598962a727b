"""The queries that the base model wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from promptintern.document import Document
from promptintern.rows.types import Query

_WRITTEN = "written query"


class WrittenQueries(Document):
    """The queries of one shard, as storage holds them."""

    queries: list[str]
    dropped: dict[str, int]
    """The number of drawn queries that are left out, by reason."""


@dataclass(frozen=True, kw_only=True)
class SelfStudy:
    """All queries that the base model wrote."""

    queries: Sequence[str] = ()
    drawn: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, shard: WrittenQueries) -> "SelfStudy":
        dropped = dict(self.dropped)
        for reason, count in shard.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
        drawn = self.drawn + len(shard.queries) + sum(shard.dropped.values())
        return SelfStudy(queries=[*self.queries, *shard.queries], drawn=drawn, dropped=dropped)

    @property
    def valid_share(self) -> float:
        """The share of the drawn queries that are valid and distinct."""
        return len(self.queries) / self.drawn if self.drawn else 0.0


def written_rows(queries: Sequence[str]) -> list[Query]:
    """Return the written ``queries`` as rows."""
    return [Query(query=query, id=f"written-{i + 1}", where=f"{_WRITTEN} {i + 1}") for i, query in enumerate(queries)]


def is_written(query: Query) -> bool:
    """Return whether the base model wrote ``query``."""
    return query.where.startswith(_WRITTEN)


def count_reasons(dropped: Mapping[str, int]) -> str:
    """Return the reasons for which queries are left out, each with its count, as parts of a sentence."""
    return "; ".join(f"{'once' if count == 1 else f'{count:,} times'}, {reason}" for reason, count in dropped.items())
