"""What the trainer does only in a pod: it writes the job's status, saves before the pod ends, and uploads its logs."""
