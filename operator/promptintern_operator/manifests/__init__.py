"""Pure functions that build the manifests of all objects that the operator creates, from a job and the settings."""
