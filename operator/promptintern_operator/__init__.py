"""The operator: watches PromptInternJobs and runs each through KubeRay."""
