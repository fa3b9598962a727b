"""pass@k: the probability that at least one of k answers passes (Chen et al. 2021, arXiv 2107.03374, equation 1)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from promptintern.evaluate.intervals import Interval, bootstrap, mean_of_sums, share_interval


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the unbiased estimate of pass@k for one row: ``1 - C(n - c, k) / C(n, k)``.

    Args:
        samples: The number n of answers that were drawn.
        passed: The number c of these answers whose program passed.
        k: The number of answers of which one has to pass; at most ``samples``.

    Raises:
        ValueError: if the numbers contradict each other.
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} needs {k} or more samples, of which at most all passed; got {passed} of {samples}")
    if samples - passed < k:
        return 1.0
    failing = np.arange(samples - passed + 1, samples + 1)
    return float(1.0 - np.prod(1.0 - k / failing))


def pass_at_k_interval(samples: int, passed: Sequence[int], k: int, clusters: Sequence[int]) -> Interval:
    """Return the mean of pass@k over rows with its 95 % interval.

    The interval is Wilson's if each row is certain to pass or to fail, and otherwise that of a bootstrap over clusters.

    Args:
        samples: The number of answers that were drawn for each row.
        passed: The number of them that passed, for each row.
        k: The number of answers of which one has to pass.
        clusters: The cluster of each row.
    """
    rows: NDArray[np.float64] = np.array([pass_at_k(samples, count, k) for count in passed])
    if np.isin(rows, (0.0, 1.0)).all():
        return share_interval(rows.tolist(), clusters)
    return bootstrap(rows[:, None], clusters, score=mean_of_sums)
