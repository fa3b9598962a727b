"""The sample model: a Llama with about 1.4 million parameters, whose initial values help it learn to read prompts."""

import math
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def make_config(tokenizer: Any) -> LlamaConfig:
    """Return the configuration of the sample model.

    Each layer has two wide heads, because the model recalls words by attention keys, which must distinguish many words.
    """
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        attention_bias=True,
        initializer_range=0.08,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_model(tokenizer: Any, *, seed: int) -> LlamaForCausalLM:
    """Return a new sample model. Its initial values depend only on ``seed`` and the size of the vocabulary."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(make_config(tokenizer))
    _initialise(model)
    return model


@torch.no_grad()
def _initialise(model: LlamaForCausalLM) -> None:
    """Set initial values of ``model`` from which it easily learns to read prompts.

    With the initial values that transformers sets, recalling words from the prompt stays near chance for a long time.
    Here, token embeddings are large compared with what the layers add, so a token remains identifiable after the first
    layer.
    """
    model.model.embed_tokens.weight.normal_(std=0.5)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight *= 0.4
        layer.mlp.down_proj.weight *= 0.4
    _attend_back(model)


def _attend_back(model: LlamaForCausalLM, *, strength: float = 6.0, frequencies: int = 4) -> None:
    """Initialise the two heads of the first layer to attend to the previous and the second previous token.

    To recall words from a prompt, a model first needs such heads, which take hundreds of steps to form from random
    weights. With rotary positions, the attention score of a query bias and a key bias at a distance d is the sum over
    frequencies f of strength^2 cos((d - offset) f), which is largest at the distance ``offset``, here 1 or 2.
    """
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    attention = model.model.layers[0].self_attn
    # The content of a token must not outweigh its position at first.
    attention.q_proj.weight *= 0.1
    attention.k_proj.weight *= 0.1
    for head in range(config.num_attention_heads):
        for index in range(frequencies):
            angle = (head + 1) * config.rope_parameters["rope_theta"] ** (-2 * index / size)
            first, second = head * size + index, head * size + index + size // 2
            attention.q_proj.bias[first] = strength * math.cos(angle)
            attention.q_proj.bias[second] = -strength * math.sin(angle)
            attention.k_proj.bias[first] = strength
