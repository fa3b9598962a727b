"""The sample model: a Llama of about 1.4 million parameters, and start values from which it learns to read."""

import math
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def make_config(tokenizer: Any) -> LlamaConfig:
    """The architecture. Two wide heads a layer, since recall needs keys that tell hundreds of words apart."""
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
    """A fresh model; the same for the same seed."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(make_config(tokenizer))
    _initialise(model)
    return model


@torch.no_grad()
def _initialise(model: LlamaForCausalLM) -> None:
    """Start values that make reading easy to learn; from the library's own, recall stays near chance for long.

    Token embeddings are large beside what the layers add, so that a token is still known after the first layer.
    """
    model.model.embed_tokens.weight.normal_(std=0.5)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight *= 0.4
        layer.mlp.down_proj.weight *= 0.4
    _attend_back(model)


def _attend_back(model: LlamaForCausalLM, *, strength: float = 6.0, frequencies: int = 4) -> None:
    """Lets the heads of the first layer start by attending one and two tokens back.

    Recall needs such heads before anything else; from random weights they take hundreds of steps to appear. With
    rotary positions the score of a query bias and a key bias at a distance d is the sum over frequencies f of
    strength^2 cos((d - offset) f), largest at the offset.
    """
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    attention = model.model.layers[0].self_attn
    # What a token is must not drown where it stands, at first.
    attention.q_proj.weight *= 0.1
    attention.k_proj.weight *= 0.1
    for head in range(config.num_attention_heads):
        for index in range(frequencies):
            angle = (head + 1) * config.rope_parameters["rope_theta"] ** (-2 * index / size)
            first, second = head * size + index, head * size + index + size // 2
            attention.q_proj.bias[first] = strength * math.cos(angle)
            attention.q_proj.bias[second] = -strength * math.sin(angle)
            attention.k_proj.bias[first] = strength
