"""The labels by which the operator knows what belongs to a job."""

from collections.abc import Mapping

MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "promptintern-operator"
SELECTOR = f"{MANAGED_BY}={OPERATOR}"
"""Of all that the operator makes, and what Kubernetes and KubeRay make of that."""
JOB = "promptintern.dev/job"
JOB_UID = "promptintern.dev/job-uid"
ROLE = "promptintern.dev/role"
ATTEMPT = "promptintern.dev/attempt"
GENERATION = "promptintern.dev/generation"
"""An annotation: the generation of the spec that a preflight checks."""
TRY = "promptintern.dev/try"
"""An annotation: which of the preflights of a generation it is, from 1."""
QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"


def for_kueue(of_job: Mapping[str, str]) -> dict[str, str]:
    """Labels of a job that what runs for it carries too, since Kueue reads them there."""
    return {name: of_job[name] for name in (QUEUE, PRIORITY) if name in of_job}
