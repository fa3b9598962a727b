"""The operator: it watches PromptInternJobs and runs each of them through KubeRay."""
