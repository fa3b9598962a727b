"""Where all that belongs to jobs was listed: what is not known yet must not count as gone."""

from collections.abc import Sequence

from promptintern_operator.kube import JOBS, PODS, PREFLIGHTS, RAY_JOBS, WORKLOADS
from promptintern_operator.store import Store
from promptintern_operator.watching import heard, is_refused


class Listed:
    """Whether everything of a namespace is known. Once it is, it stays so: watches keep it.

    Args:
        store: Tells whether there are RayJobs.
        namespaces: Those that are watched, each by itself; none if all are, together.
        kueue: Whether there are Workloads.
    """

    def __init__(self, store: Store, *, namespaces: Sequence[str], kueue: bool) -> None:
        self._store = store
        self._namespaces = namespaces
        self._kueue = kueue
        self._known: set[str | None] = set()

    def __call__(self, namespace: str) -> bool:
        """Whether all of ``namespace`` is known."""
        return self._is_known(namespace if self._namespaces else None)

    def as_far_as_allowed(self) -> bool:
        """Whether all is known, but in namespaces where the operator may not look."""
        return all(self._is_known(place) or is_refused(place or "") for place in self._namespaces or (None,))

    def _is_known(self, place: str | None) -> bool:
        if place not in self._known:
            kinds = [JOBS, PODS, PREFLIGHTS]
            kinds += [RAY_JOBS] if self._store.kuberay.usable else []
            kinds += [WORKLOADS] if self._kueue else []
            if not heard([kind.plural for kind in kinds], place):
                return False
            self._known.add(place)
        return True
