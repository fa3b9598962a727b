"""The names under which the API server serves jobs."""

GROUP = "promptintern.dev"
VERSION = "v1alpha1"
KIND = "PromptInternJob"
PLURAL = "promptinternjobs"
SHORT_NAME = "pij"
