"""Generation of answers to encoded prompts."""
