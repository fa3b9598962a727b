"""The labels by which the operator knows what belongs to a job."""

MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "promptintern-operator"
JOB = "promptintern.dev/job"
JOB_UID = "promptintern.dev/job-uid"
ROLE = "promptintern.dev/role"
ATTEMPT = "promptintern.dev/attempt"
GENERATION = "promptintern.dev/generation"
"""An annotation: the generation of the spec that a preflight checks."""
QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"
COPIED = (QUEUE, PRIORITY)
"""Labels of a job that its RayJobs carry too, since Kueue reads them there."""
