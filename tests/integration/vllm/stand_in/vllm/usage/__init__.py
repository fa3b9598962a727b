"""Parts of vLLM that say how it is used."""
