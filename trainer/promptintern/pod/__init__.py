"""What the trainer does only in a pod: it says how training goes, saves before the pod ends, and keeps its logs."""
