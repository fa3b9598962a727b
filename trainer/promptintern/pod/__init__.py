"""The parts of the trainer that run only in pods: writing the status, saving before the pod ends, uploading logs."""
