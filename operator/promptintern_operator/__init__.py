"""The operator, which watches PromptInternJobs and runs each of them through KubeRay."""
