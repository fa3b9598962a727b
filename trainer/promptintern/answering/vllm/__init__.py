"""Answers from vLLM, which runs in a process of its own, and in an environment of its own if it needs one."""
