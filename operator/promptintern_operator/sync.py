"""Where all that belongs to jobs was listed: what is not known yet must not count as gone."""

from collections.abc import Sequence

from promptintern_operator.cache import Cache
from promptintern_operator.kube import JOBS, PODS, PREFLIGHTS, RAY_JOBS, WORKLOADS
from promptintern_operator.watch_health import are_watched, is_forbidden


class HasSynced:
    """Whether everything of a namespace is known. Once it is, it stays so: watches keep it.

    Args:
        cache: Tells whether there are RayJobs.
        namespaces: Those that are watched, each by itself; none if all are, together.
        kueue: Whether there are Workloads.
    """

    def __init__(self, cache: Cache, *, namespaces: Sequence[str], kueue: bool) -> None:
        self._cache = cache
        self._namespaces = namespaces
        self._kueue = kueue
        self._synced: set[str | None] = set()

    def __call__(self, namespace: str) -> bool:
        """Whether all of ``namespace`` is known."""
        return self._has_synced(namespace if self._namespaces else None)

    def where_allowed(self) -> bool:
        """Whether all is known, but in namespaces where the operator may not look."""
        return all(self._has_synced(place) or is_forbidden(place or "") for place in self._namespaces or (None,))

    def _has_synced(self, place: str | None) -> bool:
        if place not in self._synced:
            kinds = [JOBS, PODS, PREFLIGHTS]
            kinds += [RAY_JOBS] if self._cache.kuberay.usable else []
            kinds += [WORKLOADS] if self._kueue else []
            if not are_watched([kind.plural for kind in kinds], place):
                return False
            self._synced.add(place)
        return True
