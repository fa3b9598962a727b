"""Determine whether the cache has synced; before that, an object that is not in the cache may still exist."""

from collections.abc import Sequence

from promptintern_operator.cache import Cache
from promptintern_operator.kube import JOBS, PODS, PREFLIGHTS, RAY_JOBS, WORKLOADS
from promptintern_operator.watch_health import are_watched, is_forbidden


class HasSynced:
    """A check of whether all watched kinds have been listed in a namespace. After that, the watches keep it synced.

    Args:
        cache: The cache, which says whether the API server serves RayJobs.
        namespaces: The namespaces that are watched separately, or none if the whole cluster is watched.
        kueue: Whether the API server serves Kueue's Workloads.
    """

    def __init__(self, cache: Cache, *, namespaces: Sequence[str], kueue: bool) -> None:
        self._cache = cache
        self._namespaces = namespaces
        self._kueue = kueue
        self._synced: set[str | None] = set()

    def __call__(self, namespace: str) -> bool:
        """Return whether ``namespace`` has synced."""
        return self._has_synced(namespace if self._namespaces else None)

    def where_allowed(self) -> bool:
        """Return whether all namespaces that the operator may list have synced."""
        return all(self._has_synced(place) or is_forbidden(place or "") for place in self._namespaces or (None,))

    def _has_synced(self, place: str | None) -> bool:
        if place not in self._synced:
            plurals = [JOBS.plural, PODS.plural, PREFLIGHTS.plural]
            plurals += [RAY_JOBS.plural] if self._cache.kuberay.usable else []
            plurals += [WORKLOADS] if self._kueue else []
            if not are_watched(plurals, place):
                return False
            self._synced.add(place)
        return True
